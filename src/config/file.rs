//! Reads a configuration file and names every error in it at once, each with its line.
//!
//! serde stops at the first error. So every key is tried by itself, as a file that holds nothing else; then the
//! keys that passed are read together.

use std::collections::HashMap;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer};

use super::{Config, Problem};

/// One error of a file, with its line where the file has one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub line: Option<usize>,
    pub message: String,
}

/// Parses and checks a whole file. All errors come back, in the order of their lines.
pub(super) fn parse(text: &str) -> Result<Config, Vec<Place>> {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let mut places: Vec<Place> = syntax_errors
        .iter()
        .map(|error| Place { line: error.span().map(|span| line_of(span.start)), message: one_line(error.message()) })
        .collect();
    let mut lines = HashMap::new();
    let mut good = DeTable::new();
    for (section, value) in document.into_inner() {
        let section_line = line_of(section.span().start);
        lines.insert(section.get_ref().to_string(), section_line);
        let keys = match value.get_ref() {
            DeValue::Table(keys) if !keys.is_empty() => keys,
            _ => {
                places.extend(try_alone(&section, value, section_line));
                continue;
            }
        };
        let mut good_keys = DeTable::new();
        for (key, entry) in keys {
            let line = line_of(key.span().start);
            lines.insert(format!("{}.{}", section.get_ref(), key.get_ref()), line);
            let alone = DeValue::Table(DeTable::from_iter([(key.clone(), entry.clone())]));
            match try_alone(&section, Spanned::new(value.span(), alone), line) {
                Some(error) => places.push(error),
                None => _ = good_keys.insert(key.clone(), entry.clone()),
            }
        }
        if !good_keys.is_empty() {
            good.insert(section, Spanned::new(value.span(), DeValue::Table(good_keys)));
        }
    }
    let config = read(good).expect("every key was read alone");
    let bounds = config.problems().into_iter().filter_map(|problem| place(&problem, &lines, &places));
    places.extend(bounds.collect::<Vec<_>>());
    places.sort();
    places.dedup();
    if places.is_empty() { Ok(config) } else { Err(places) }
}

fn read(table: DeTable<'_>) -> Result<Config, toml::de::Error> {
    Config::deserialize(Deserializer::from(Spanned::new(0..0, table)))
}

/// Reads a file of this one section alone; the error if it fails.
fn try_alone<'a>(section: &Spanned<DeString<'a>>, value: Spanned<DeValue<'a>>, line: usize) -> Option<Place> {
    let error = read(DeTable::from_iter([(section.clone(), value)])).err()?;
    Some(Place { line: Some(line), message: one_line(error.message()) })
}

/// A bound that does not hold, at its key's line, else at its section's.
fn place(problem: &Problem, lines: &HashMap<String, usize>, errors: &[Place]) -> Option<Place> {
    let section = problem.key.split('.').next().unwrap_or(problem.key);
    let line = lines.get(problem.key).or_else(|| lines.get(section)).copied();
    // A key that could not be read has its default here: what follows from that is no error of the file.
    let unread = line.is_some() && errors.iter().any(|error| error.line == line && lines.contains_key(problem.key));
    (!unread).then(|| Place { line, message: format!("{} {}", problem.key, problem.message) })
}

fn one_line(message: &str) -> String {
    message.trim_end().replace('\n', "; ")
}
