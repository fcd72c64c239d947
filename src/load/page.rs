//! A report as one HTML page that needs nothing beside it: charts in SVG, no script, no network.

use super::chart::{COLOURS, Chart, Line, Unit, escape};
use super::figures::{Figures, JobFigures, KindFigures, TimelineFigures};
use super::layers::{LayerFigures, LayerSpread, Split};
use super::units::{nanoseconds_text as time, short_bytes, short_count};
use crate::error::{Error, Result};
use std::fmt::Write as _;

const FRAME: &str = include_str!("page.html");

/// The page of a run, beside another one if there is one to compare with.
///
/// # Errors
/// A chart that cannot be drawn.
pub fn page(run: &Figures, against: Option<&Figures>) -> Result<String> {
    let title = format!("forebay load: {}", run.title);
    let mut head = format!("<div class=\"runs\">{}", origin(against.map_or("", |_| "solid: "), run));
    if let Some(against) = against {
        head += &origin("dashed, the other run: ", against);
    }
    head += "</div>";
    let mut body = summary(run, against);
    for job in &run.jobs {
        let before = against.and_then(|against| against.jobs.iter().find(|other| other.name == job.name));
        job_section(&mut body, job, before).map_err(Error::new)?;
    }
    let lacking = run.jobs.iter().all(|job| job.layers.is_none());
    if lacking {
        body +=
            "<p>Layers are not in this report: they take a program with the feature perf-diagnostics and --layers.</p>";
    }
    // The body last: what stands in it is not looked at again.
    Ok(FRAME.replace("{title}", &escape(&title)).replacen("{head}", &head, 1).replacen("{body}", &body, 1))
}

fn origin(which: &str, run: &Figures) -> String {
    format!(
        "<div><h3>{which}{}</h3><p>{}</p><p>{}</p><p>{}, forebay {}</p></div>",
        escape(&run.title),
        escape(&run.machine),
        escape(run.device.as_deref().unwrap_or("a running daemon")),
        escape(&run.started),
        escape(&run.version)
    )
}

fn of_kind<'a>(job: Option<&'a JobFigures>, kind: &str) -> Option<&'a KindFigures> {
    job?.kinds.iter().find(|other| other.kind == kind)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn per_second(count: u64, elapsed_ns: u64) -> f64 {
    count as f64 * 1e9 / elapsed_ns.max(1) as f64
}

/// All kinds of all jobs in a table; with another run, how many times as much each figure is.
fn summary(run: &Figures, against: Option<&Figures>) -> String {
    let mut table = "<div class=\"cards\"><div class=\"card\"><table><tr><th>job</th><th class=\"name\">operation</th>\
                     <th>a second</th><th>bytes a second</th><th>p50</th><th>p99</th><th>p99.9</th><th>max</th></tr>"
        .to_owned();
    for job in &run.jobs {
        let before = against.and_then(|against| against.jobs.iter().find(|other| other.name == job.name));
        for kind in &job.kinds {
            let old = of_kind(before, &kind.kind);
            let rate = |kind: &KindFigures, job: &JobFigures| per_second(kind.operations, job.elapsed_ns);
            let bytes = |kind: &KindFigures, job: &JobFigures| per_second(kind.bytes, job.elapsed_ns);
            // The whole of a read-modify-write moves nothing that its parts did not.
            let moved = if kind.bytes == 0 { "-".to_owned() } else { short_bytes(bytes(kind, job).round()) };
            let times = |of: fn(&KindFigures) -> u64| {
                cell(&time(of(kind)), per_second(of(kind), 1), old.map(|old| per_second(of(old), 1)))
            };
            let pair = old.zip(before);
            let _ = write!(
                table,
                "<tr><td>{}</td><td class=\"name\">{}</td>{}{}{}{}{}{}</tr>",
                escape(&job.name),
                escape(&kind.kind),
                cell(
                    &short_count(rate(kind, job).round()),
                    rate(kind, job),
                    pair.map(|(old, before)| rate(old, before))
                ),
                cell(&moved, bytes(kind, job), pair.map(|(old, before)| bytes(old, before))),
                times(|kind| kind.p50_ns),
                times(|kind| kind.p99_ns),
                times(|kind| kind.p999_ns),
                times(|kind| kind.max_ns),
            );
        }
    }
    table + "</table></div></div>"
}

/// A figure, and how many times that of the other run it is.
fn cell(text: &str, value: f64, old: Option<f64>) -> String {
    format!("<td>{text}{}</td>", times_old(value, old))
}

fn times_old(value: f64, old: Option<f64>) -> String {
    old.filter(|old| *old > 0.0).map(|old| format!(" <small>{:.2} x</small>", value / old)).unwrap_or_default()
}

fn job_section(body: &mut String, job: &JobFigures, before: Option<&JobFigures>) -> Result<(), String> {
    let _ = write!(body, "<h2>{}</h2><p>{}</p>", escape(&job.name), escape(&job.what));
    if let Some(error) = &job.error {
        let _ = write!(body, "<p class=\"bad\">Ended with an error: {}</p>", escape(error));
    }
    *body += "<div class=\"cards\">";
    let kinds: Vec<(&str, u8)> = job.kinds.iter().map(|kind| kind.kind.as_str()).zip((0..COLOURS).cycle()).collect();
    card(body, &format!("{}: latency distribution", job.name), &distribution(job, before), &kinds, before.is_some())?;
    card(body, &format!("{}: throughput", job.name), &throughput(job, before), &kinds, before.is_some())?;
    for kind in &job.kinds {
        let title = format!("{}: latency of a {} over time", job.name, kind.kind);
        let old = of_kind(before, &kind.kind);
        let names = [("p50", 0), ("p99", 1), ("p99.9", 3), ("max", 4)];
        card(body, &title, &over_time(kind, old, job.elapsed_ns), &names, old.is_some())?;
    }
    if let Some(layers) = &job.layers {
        layer_card(body, &job.name, layers, before.and_then(|before| before.layers.as_ref()));
    }
    *body += "</div>";
    Ok(())
}

fn card(body: &mut String, title: &str, chart: &Chart, keys: &[(&str, u8)], compared: bool) -> Result<(), String> {
    let _ = write!(body, "<div class=\"card\"><h3>{}</h3><div class=\"keys\">", escape(title));
    for (name, colour) in keys {
        let _ = write!(body, "<span><i style=\"color:var(--line-{colour})\"></i>{}</span>", escape(name));
    }
    if compared {
        *body += "<span><i class=\"dashed\"></i>the other run</span>";
    }
    let _ = write!(body, "</div>{}</div>", chart.draw(title)?);
    Ok(())
}

/// A percent as a place on the scale of nines; the slowest operation stands at the end of what can be told.
#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn nines(percent: f64, operations: u64) -> f64 {
    let last = (operations.max(2) as f64).log10();
    if percent >= 100.0 { last } else { (-(1.0 - percent / 100.0).log10()).min(last) }
}

#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn distribution(job: &JobFigures, before: Option<&JobFigures>) -> Chart {
    let mut lines = Vec::new();
    for (kind, colour) in job.kinds.iter().zip((0..COLOURS).cycle()) {
        let place = |kind: &KindFigures| {
            let points = kind.percentiles_ns.iter();
            points.map(|(percent, ns)| (nines(*percent, kind.operations), *ns as f64)).collect()
        };
        let old = of_kind(before, &kind.kind);
        lines.extend(old.map(|old| Line { colour, before: true, points: place(old) }));
        lines.push(Line { colour, before: false, points: place(kind) });
    }
    let longest = job.kinds.iter().max_by_key(|kind| kind.percentiles_ns.len());
    let hints = longest.into_iter().flat_map(|longest| &longest.percentiles_ns).map(|(percent, _)| {
        let mut text = if *percent >= 100.0 { "the slowest".to_owned() } else { format!("{percent:.5} %") };
        for kind in &job.kinds {
            let found = kind.percentiles_ns.iter().find(|(at, _)| at >= percent);
            if let Some((_, ns)) = found {
                let _ = write!(text, "\n{}: {}", kind.kind, time(*ns));
            }
        }
        (nines(*percent, longest.map_or(0, |longest| longest.operations)), text)
    });
    let hints = hints.collect();
    Chart { x: (Unit::Nines, "share of operations"), y: (Unit::Latency, "latency"), lines, hints }
}

/// The middle of each interval, in seconds, and how long it was: the last one ends with the job. What is left of one
/// that is not whole says little: nothing begins any more.
#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn intervals(timeline: &TimelineFigures, elapsed_ns: u64) -> Vec<(f64, f64)> {
    let length = timeline.interval_ns.max(1);
    let each = (0..timeline.operations.len() as u64).map(|number| {
        let begin = number * length;
        let long = elapsed_ns.saturating_sub(begin).min(length);
        ((begin as f64 + long as f64 / 2.0) / 1e9, long)
    });
    each.filter(|(_, long)| *long * 10 >= length * 9).map(|(at, long)| (at, long as f64 / 1e9)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn throughput(job: &JobFigures, before: Option<&JobFigures>) -> Chart {
    let mut lines = Vec::new();
    let points = |kind: &KindFigures, elapsed_ns| -> Vec<(f64, f64)> {
        let rates = intervals(&kind.timeline, elapsed_ns).into_iter().zip(&kind.timeline.operations);
        rates.map(|((at, seconds), operations)| (at, *operations as f64 / seconds)).collect()
    };
    for (kind, colour) in job.kinds.iter().zip((0..COLOURS).cycle()) {
        let old = of_kind(before, &kind.kind).zip(before);
        lines.extend(old.map(|(old, job)| Line { colour, before: true, points: points(old, job.elapsed_ns) }));
        lines.push(Line { colour, before: false, points: points(kind, job.elapsed_ns) });
    }
    let longest = job.kinds.iter().max_by_key(|kind| kind.timeline.operations.len());
    let hints = longest.into_iter().flat_map(|longest| intervals(&longest.timeline, job.elapsed_ns)).enumerate();
    let hints = hints.map(|(number, (at, seconds))| {
        let mut text = format!("at {at:.2} s");
        for kind in &job.kinds {
            let operations = kind.timeline.operations.get(number).copied().unwrap_or(0) as f64;
            let bytes = kind.timeline.bytes.get(number).copied().unwrap_or(0) as f64;
            let (rate, bandwidth) =
                (short_count((operations / seconds).round()), short_bytes((bytes / seconds).round()));
            let _ = write!(text, "\n{}: {rate} a second, {bandwidth} a second", kind.kind);
        }
        (at, text)
    });
    let hints = hints.collect();
    Chart {
        x: (Unit::Seconds, "time since the measurement began"),
        y: (Unit::PerSecond, "operations a second"),
        lines,
        hints,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place on a chart")]
fn over_time(kind: &KindFigures, old: Option<&KindFigures>, elapsed_ns: u64) -> Chart {
    let series = |timeline: &TimelineFigures| {
        [(0, &timeline.p50_ns), (1, &timeline.p99_ns), (3, &timeline.p999_ns), (4, &timeline.max_ns)].map(
            |(colour, values)| {
                let length = timeline.interval_ns as f64 / 1e9;
                let points = (0_u32..).zip(values).map(|(number, ns)| ((f64::from(number) + 0.5) * length, *ns as f64));
                (colour, points.collect::<Vec<(f64, f64)>>())
            },
        )
    };
    // Of the other run only p50 and p99: eight lines are too many to tell apart.
    let old_lines = old.into_iter().flat_map(|old| series(&old.timeline).into_iter().take(2));
    let old_lines = old_lines.map(|(colour, points)| Line { colour, before: true, points });
    // The lower ones last: where they are all the same, p50 is seen.
    let new_lines =
        series(&kind.timeline).into_iter().rev().map(|(colour, points)| Line { colour, before: false, points });
    let timeline = &kind.timeline;
    let hints = intervals(timeline, elapsed_ns).into_iter().enumerate().map(|(number, (at, _))| {
        let value = |values: &[u64]| time(values.get(number).copied().unwrap_or(0));
        let text = format!(
            "at {at:.2} s\np50: {}\np99: {}\np99.9: {}\nmax: {}\noperations: {}",
            value(&timeline.p50_ns),
            value(&timeline.p99_ns),
            value(&timeline.p999_ns),
            value(&timeline.max_ns),
            timeline.operations[number]
        );
        (at, text)
    });
    let hints = hints.collect();
    let lines = old_lines.chain(new_lines).collect();
    Chart { x: (Unit::Seconds, "time since the measurement began"), y: (Unit::Latency, "latency"), lines, hints }
}

/// Two bars, of an operation at p50 and one at p99.9, those of the other run below them, and the figures.
fn layer_card(body: &mut String, job: &str, layers: &LayerFigures, before: Option<&LayerFigures>) {
    let _ = write!(body, "<div class=\"card\"><h3>{}: where the time goes</h3>", escape(job));
    type Pick = fn(&LayerFigures) -> &Split;
    let splits: [(&str, Pick); 2] = [("at p50", |layers| &layers.p50), ("at p99.9", |layers| &layers.p999)];
    for (name, split) in splits {
        let latency_ns = split(layers).latency_ns;
        let _ = write!(body, "<p>An operation {name}: {}</p>", time(latency_ns));
        layer_bar(body, layers, split(layers));
        if let Some(before) = before {
            let old_ns = split(before).latency_ns;
            let times = times_old(per_second(latency_ns, 1), Some(per_second(old_ns, 1)));
            let _ = write!(body, "<p>In the other run: {}, so this is{times}</p>", time(old_ns));
            layer_bar(body, before, split(before));
        }
    }
    *body += "<table class=\"layers\"><tr><th>layer</th><th>at p50</th><th>at p99.9</th><th>all: p50</th><th>p99.9</th>\
              <th>max</th></tr>";
    for (number, layer) in layers.layers.iter().enumerate() {
        let place = |before: &LayerFigures| before.layers.iter().position(|old| old.name == layer.name);
        let old = before.and_then(|before| Some((before, place(before)?)));
        let _ = write!(body, "<tr><td>{}{}</td>", swatch(number), escape(&layer.name));
        for (_, split) in splits {
            let spent = |split: &Split, number| split.spent_ns.get(number).copied().unwrap_or(0);
            let text =
                format!("{} <small>{:.1} %</small>", time(spent(split(layers), number)), split(layers).percent(number));
            let old_ns = old.map(|(before, number)| per_second(spent(split(before), number), 1));
            *body += &cell(&text, per_second(spent(split(layers), number), 1), old_ns);
        }
        let all: [fn(&LayerSpread) -> u64; 3] = [|layer| layer.p50_ns, |layer| layer.p999_ns, |layer| layer.max_ns];
        for of in all {
            let old_ns = old.map(|(before, number)| per_second(of(&before.layers[number]), 1));
            *body += &cell(&time(of(layer)), per_second(of(layer), 1), old_ns);
        }
        *body += "</tr>";
    }
    *body += "</table></div>";
}

fn layer_bar(body: &mut String, layers: &LayerFigures, split: &Split) {
    *body += "<div class=\"bar\">";
    for (number, layer) in layers.layers.iter().enumerate() {
        let percent = split.percent(number);
        let _ = write!(
            body,
            "<span style=\"width:{percent:.2}%;background:{}\" title=\"{}: {percent:.1} %\"></span>",
            colour_of_layer(number),
            escape(&layer.name)
        );
    }
    *body += "</div>";
}

fn swatch(number: usize) -> String {
    let colour = colour_of_layer(number);
    format!("<span class=\"keys\" style=\"display:inline\"><i style=\"color:{colour}\"></i></span>")
}

/// Six strong ones, then six weak ones.
fn colour_of_layer(number: usize) -> String {
    let tone = if number < usize::from(COLOURS) { "line" } else { "before" };
    format!("var(--{tone}-{})", number % usize::from(COLOURS))
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
