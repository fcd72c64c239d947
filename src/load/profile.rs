//! What the transactions of a job do: tables of rows, and each profile's accesses to them.

use super::units::parse_bytes;
use crate::ring::protocol::commit;

/// Rows of one name. The tables of a job follow each other in the keys of its space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub rows: u64,
}

/// What a transaction does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Reads it, then writes it.
    Modify,
    /// Writes it, whatever it was.
    Write,
}

/// So many rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub access: Access,
    pub table: String,
    pub rows: u32,
}

/// One kind of transaction. The shares of a job's profiles add up to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub percent: u32,
    pub steps: Vec<Step>,
}

impl Profile {
    fn rows(&self, counts: impl Fn(Access) -> bool) -> u32 {
        self.steps.iter().filter(|step| counts(step.access)).fold(0, |sum, step| sum.saturating_add(step.rows))
    }

    #[must_use]
    pub fn reads(&self) -> u32 {
        self.rows(|access| access != Access::Write)
    }

    #[must_use]
    pub fn writes(&self) -> u32 {
        self.rows(|access| access != Access::Read)
    }
}

/// "accounts/1000:branches/10".
pub fn parse_tables(text: &str) -> Result<Vec<Table>, String> {
    let table = |part: &str| {
        let (name, rows) = part.split_once('/').filter(|(name, _)| !name.is_empty() && !name.contains(' '))?;
        Some(Table { name: name.to_owned(), rows: parse_bytes(rows).ok().filter(|rows| *rows > 0)? })
    };
    let tables = text.split(':').map(|part| {
        table(part).ok_or_else(|| format!("tables: {part:?} is not a table; write NAME/ROWS, as in accounts/10k"))
    });
    let tables: Vec<Table> = tables.collect::<Result<_, _>>()?;
    for (place, table) in tables.iter().enumerate() {
        if tables[..place].iter().any(|earlier| earlier.name == table.name) {
            return Err(format!("tables: {:?} stands there twice", table.name));
        }
    }
    Ok(tables)
}

/// "transfer/45: read branches, modify accounts*2": without a share it is all there is.
pub fn parse_profile(text: &str) -> Result<Profile, String> {
    let form = "write NAME/PERCENT: ACCESS TABLE*ROWS, ..., as in transfer/100: read branches, modify accounts*2";
    let (head, steps) = text.split_once(':').ok_or_else(|| format!("transaction={text}: {form}"))?;
    let (name, percent) = head.split_once('/').unwrap_or((head, "100"));
    let percent = percent.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
    let percent = percent.ok_or_else(|| format!("transaction={head}: a share is 1 to 100 percent"))?;
    let steps = steps.split(',').map(|step| {
        parse_step(step.trim()).ok_or_else(|| format!("transaction={head}: {:?} is not an access; {form}", step.trim()))
    });
    let profile = Profile { name: name.trim().to_owned(), percent, steps: steps.collect::<Result<_, _>>()? };
    // Each row may be written, and each that is read is an entry beside.
    let entries = profile.reads().saturating_add(profile.writes()) as usize;
    if entries > commit::ENTRIES_MAX {
        let most = commit::ENTRIES_MAX;
        return Err(format!("transaction={head}: {entries} reads and writes, and a commit has {most} at most"));
    }
    Ok(profile)
}

fn parse_step(text: &str) -> Option<Step> {
    let (access, target) = text.split_once(' ')?;
    let (table, rows) = target.split_once('*').unwrap_or((target, "1"));
    let access = match access {
        "read" => Access::Read,
        "modify" => Access::Modify,
        "write" => Access::Write,
        _ => return None,
    };
    let rows = rows.trim().parse().ok().filter(|rows| *rows > 0)?;
    Some(Step { access, table: table.trim().to_owned(), rows })
}

/// Whether profiles fit each other and their tables. What is wrong with them.
pub fn check(tables: &[Table], profiles: &[Profile]) -> Result<(), String> {
    for (place, profile) in profiles.iter().enumerate() {
        let name = &profile.name;
        if profiles[..place].iter().any(|earlier| earlier.name == *name) {
            return Err(format!("transaction={name} stands there twice; give each its own name"));
        }
        for step in &profile.steps {
            let Some(table) = tables.iter().find(|table| table.name == step.table) else {
                return Err(format!("transaction={name}: no table {:?}; name it in tables=", step.table));
            };
            // All rows of a transaction are different ones.
            let same = profile.steps.iter().filter(|other| other.table == step.table);
            let wanted: u64 = same.map(|step| u64::from(step.rows)).sum();
            if wanted > table.rows {
                let (table, rows) = (&table.name, table.rows);
                return Err(format!("transaction={name}: {wanted} rows of the {rows} that {table:?} has"));
            }
        }
    }
    let sum: u32 = profiles.iter().map(|profile| profile.percent).sum();
    if sum == 100 { Ok(()) } else { Err(format!("the shares of transaction= add up to {sum}; make them 100")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_say_what_they_do_with_which_rows() {
        let profile = parse_profile("transfer/45: read branches, modify accounts*2,write log").unwrap();
        assert_eq!((profile.name.as_str(), profile.percent), ("transfer", 45));
        let step = |access, table: &str, rows| Step { access, table: table.into(), rows };
        let steps =
            [step(Access::Read, "branches", 1), step(Access::Modify, "accounts", 2), step(Access::Write, "log", 1)];
        assert_eq!((profile.reads(), profile.writes(), profile.steps), (3, 3, steps.to_vec()));
        assert_eq!(parse_profile("all:read a").unwrap().percent, 100);
        for (text, part) in [
            ("transfer", "write NAME/PERCENT"),
            ("t/0: read a", "1 to 100 percent"),
            ("t/x: read a", "1 to 100 percent"),
            ("t:", "\"\" is not an access"),
            ("t: drop a", "\"drop a\" is not an access"),
            ("t: read a*0", "is not an access"),
            ("t: read a, modify", "\"modify\" is not an access"),
            ("t: modify a*513", "1026 reads and writes"),
            ("t: read a*4294967295, read a*4294967295", "a commit has 1024 at most"),
        ] {
            let cause = parse_profile(text).unwrap_err();
            assert!(cause.contains(part), "{text:?} gave {cause:?}");
        }
    }

    #[test]
    fn tables_have_rows_for_all_that_a_transaction_takes() {
        let tables = parse_tables("a/4:b/1k").unwrap();
        assert_eq!(tables[1], Table { name: "b".into(), rows: 1_024 });
        for text in ["", "a", "a/0", "a/x", "/5", "a/1:a/2", "a b/1"] {
            assert!(parse_tables(text).is_err(), "{text:?}");
        }
        let checked = |texts: &[&str]| {
            let profiles: Vec<Profile> = texts.iter().map(|text| parse_profile(text).unwrap()).collect();
            check(&tables, &profiles).err().unwrap_or_default()
        };
        assert_eq!(checked(&["t/60: read a*2, modify a*2, write b", "u/40: read b"]), "");
        assert!(checked(&["t: read a*2, modify a*3"]).contains("5 rows of the 4 that \"a\" has"));
        assert!(checked(&["t: read c"]).contains("no table \"c\""));
        assert!(checked(&["t/50: read a", "t/50: read b"]).contains("stands there twice"));
        assert!(checked(&["t/50: read a", "u/49: read b"]).contains("add up to 99"));
    }
}
