//! Reads a job file: sections, options, comments. Names every error at once, each with its line.

use super::draft::{Draft, Outcome};
use super::job::{Job, JobFile};
use crate::error::{Error, Result};

/// Errors and warnings of one file, with the lines they belong to.
#[derive(Default)]
struct Findings {
    errors: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
}

/// Reads a job file. `name` stands before each error, as in "jobs.fio: line 3: ...".
///
/// # Errors
/// One error that lists all that is wrong, a line each.
pub fn parse(text: &str, name: &str) -> Result<JobFile> {
    let mut findings = Findings::default();
    let (global_options, drafts) = read_sections(text, &mut findings);
    let mut jobs: Vec<Job> = Vec::with_capacity(drafts.len());
    let mut group = 0;
    for (place, draft) in drafts.iter().enumerate() {
        if !draft.name.is_empty() && drafts[..place].iter().any(|earlier| earlier.name == draft.name) {
            let cause = format!("a job [{}] stands above already; give each job its own name", draft.name);
            findings.errors.push((draft.line, cause));
        }
        if draft.stonewall && place > 0 {
            group += 1;
        }
        match draft.finish(group, place as u64) {
            Ok(job) => jobs.push(job),
            Err(errors) => findings.errors.extend(errors),
        }
    }
    for (place, job) in jobs.iter().enumerate() {
        let same = |other: &&Job| other.target == job.target && other.compress_percent != job.compress_percent;
        if let Some(other) = jobs[..place].iter().find(same) {
            let line = drafts.iter().find(|draft| draft.name == job.name).map_or(0, |draft| draft.line);
            let cause = format!(
                "jobs [{}] and [{}] drive the same {} with another buffer_compress_percentage=; make it the same",
                other.name,
                job.name,
                job.target.kind.name()
            );
            findings.errors.push((line, cause));
        }
    }
    if drafts.is_empty() && findings.errors.is_empty() {
        return Err(Error::new(format!("{name}: no job in this file"))
            .remedy("add a section such as [put] with rw=randwrite, space=, keys= and size="));
    }
    // An error in [global] shows up in every job that inherits it; once is enough.
    findings.errors.sort();
    findings.errors.dedup();
    if !findings.errors.is_empty() {
        return Err(Error::new(summary(name, &findings.errors)));
    }
    let warnings = findings.warnings.iter().map(|(line, text)| format!("{name}: line {line}: {text}")).collect();
    Ok(JobFile { jobs, global_options, warnings })
}

fn summary(name: &str, errors: &[(usize, String)]) -> String {
    let lines: Vec<String> = errors.iter().map(|(line, cause)| format!("{name}: line {line}: {cause}")).collect();
    if lines.len() == 1 { lines.concat() } else { format!("{name}: {} errors\n{}", lines.len(), lines.join("\n")) }
}

/// The sections of a file as drafts: each begins as what [global] holds so far.
fn read_sections(text: &str, findings: &mut Findings) -> (Vec<(String, String)>, Vec<Draft>) {
    let mut global = Draft::default();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut in_global = None;
    for (place, raw) in text.lines().enumerate() {
        let line = place + 1;
        let content = strip_comment(raw);
        if content.is_empty() {
            continue;
        }
        if let Some(section) = content.strip_prefix('[') {
            let closed = section.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty());
            if closed.is_none() {
                findings.errors.push((line, format!("{content:?} is not a section; write [name]")));
            }
            // What follows is meant for this section all the same: its errors are told, those of its absence are not.
            let name = closed.unwrap_or_else(|| section.trim_end_matches(']').trim());
            in_global = Some(name == "global");
            if name != "global" {
                let mut draft = global.for_job(name, line);
                draft.broken |= closed.is_none();
                drafts.push(draft);
            }
            continue;
        }
        let draft = match (in_global, drafts.last_mut()) {
            (Some(false), Some(draft)) => draft,
            (Some(_), _) => &mut global,
            (None, _) => {
                let cause = format!("{content:?} stands before the first section; put it under [global] or a [job]");
                findings.errors.push((line, cause));
                continue;
            }
        };
        read_option(draft, content, line, findings);
    }
    (global.options, drafts)
}

fn read_option(draft: &mut Draft, content: &str, line: usize, findings: &mut Findings) {
    let (key, value) = match content.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value.trim())),
        None => (content, None),
    };
    match draft.apply(key, value, line) {
        Ok(Outcome::Taken) => {}
        Ok(Outcome::Warned(text)) => findings.warnings.push((line, text)),
        Err(cause) => {
            draft.broken = true;
            findings.errors.push((line, cause));
        }
    }
}

/// A line without its comment and the blanks around it. Within a line, a comment begins after a blank.
fn strip_comment(line: &str) -> &str {
    let mut after_blank = true;
    for (place, byte) in line.bytes().enumerate() {
        if after_blank && matches!(byte, b'#' | b';') {
            return line[..place].trim();
        }
        after_blank = byte.is_ascii_whitespace();
    }
    line.trim()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
