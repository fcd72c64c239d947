//! Line charts as SVG that stands in a page: its colours are those of the page, light or dark.

use super::units::{latency_text, short_count};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt::Write as _;
use std::ops::Range;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 310;
/// What the page names `--ink` and `--grid`. Plotters knows colours by value alone, so these stand for names until the
/// drawing is done; what is before the other in `COLOURS` is drawn by nobody else.
const INK: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(4, 5, 6);
/// Of lines, `--line-0` and on, and `--before-0` and on for those of the run that is compared with.
pub const COLOURS: u8 = 6;

/// The points of one line, from left to right. A value of 0 on a logarithmic scale is a gap.
pub struct Line {
    /// Below `COLOURS`.
    pub colour: u8,
    /// Of the run that is compared with.
    pub before: bool,
    pub points: Vec<(f64, f64)>,
}

/// What a scale measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, on a logarithmic scale.
    Latency,
    /// From 0.
    PerSecond,
    Seconds,
    /// 0.301 for 50 %, 1 for 90 %, 2 for 99 %, and so on.
    Nines,
}

pub struct Chart {
    pub x: (Unit, &'static str),
    pub y: (Unit, &'static str),
    pub lines: Vec<Line>,
    /// What is shown while the pointer is near a place on the x axis.
    pub hints: Vec<(f64, String)>,
}

impl Unit {
    fn is_log(self) -> bool {
        self == Unit::Latency
    }

    fn scaled(self, value: f64) -> f64 {
        if self.is_log() { value.max(1.0).log10() } else { value }
    }

    /// The range of a scale that holds the values, scaled, and its ticks.
    fn range(self, values: impl Iterator<Item = f64>) -> (f64, f64, Vec<f64>) {
        let (least, most) =
            values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
        let (least, most) = if least > most { (1.0, 10.0) } else { (least, most) };
        match self {
            Unit::Latency => log_range(least.max(1.0), most.max(1.0)),
            Unit::Nines => {
                let most = most.max(1.0);
                (
                    0.0,
                    most,
                    [0.5_f64.log10().abs()]
                        .into_iter()
                        .chain((1..=9).map(f64::from))
                        .filter(|at| *at <= most)
                        .collect(),
                )
            }
            Unit::PerSecond | Unit::Seconds => {
                let top = if self == Unit::PerSecond { most * 1.08 } else { most };
                let step = round_step(top.max(1e-3) / 5.0);
                let ticks: Vec<f64> =
                    (0..12).map(|tick| f64::from(tick) * step).filter(|at| *at <= top * 1.0001).collect();
                (0.0, top.max(1e-3), ticks)
            }
        }
    }

    fn text(self, at: f64) -> String {
        match self {
            Unit::Latency => latency_text(10_f64.powf(at)),
            Unit::PerSecond => short_count(at.round()).replace(".00", "").replace(".0", ""),
            Unit::Seconds => format!("{} s", (at * 1_000.0).round() / 1_000.0),
            Unit::Nines if at < 0.5 => "50 %".to_owned(),
            Unit::Nines => {
                let decimals = usize::try_from(whole(at) - 2).unwrap_or(0);
                format!("{:.decimals$} %", 100.0 - 100.0 * 10_f64.powf(-at))
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a tick: a small number")]
fn whole(value: f64) -> i32 {
    value.round() as i32
}

/// Decades, or where there are few of them 1, 2 and 5 in each.
fn log_range(least: f64, most: f64) -> (f64, f64, Vec<f64>) {
    let steps: Vec<f64> = (0..12).flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade))).collect();
    let bottom = steps.iter().rev().find(|step| **step <= least).copied().unwrap_or(1.0);
    let top = steps.iter().find(|step| **step >= most && **step > bottom).copied().unwrap_or(1e12);
    let (bottom, top) = (bottom.log10(), top.log10());
    let inside = |at: &f64| *at >= bottom - 1e-9 && *at <= top + 1e-9;
    let all: Vec<f64> = steps.iter().map(|step| step.log10()).filter(inside).collect();
    let decades: Vec<f64> = all.iter().copied().filter(|at| (at - at.round()).abs() < 1e-9).collect();
    (bottom, top, if decades.len() < 3 { all } else { decades })
}

/// 1, 2 or 5 times a power of ten, at least this.
fn round_step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|step| step * decade).into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade)
}

/// A scale with the ticks that it is given.
struct Axis(Range<f64>, Vec<f64>);

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.0.start) / (self.0.end - self.0.start).max(f64::MIN_POSITIVE);
        from + whole(f64::from(to - from) * share)
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.1.clone()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

fn colour(line: &Line) -> RGBColor {
    RGBColor(10 + u8::from(line.before), 20, line.colour)
}

impl Chart {
    /// The picture, with a description for those who do not see it.
    ///
    /// # Errors
    /// What the drawing library says; a string takes all it draws.
    pub fn draw(&self, title: &str) -> Result<String, String> {
        let mut svg = String::new();
        let strips = {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let strips = self.draw_on(&root).map_err(|error| error.to_string())?;
            root.present().map_err(|error| error.to_string())?;
            strips
        };
        Ok(self.finish(&svg, title, &strips))
    }

    /// Draws, and says where the hints belong: left edge and width of each, in pixels.
    fn draw_on(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<Vec<(i32, i32)>, DrawingAreaErrorKind<std::io::Error>> {
        let (x, y) = (self.x.0, self.y.0);
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (left, right, x_ticks) = x.range(points().map(|(at, _)| *at));
        let (bottom, top, y_ticks) =
            y.range(points().map(|(_, value)| *value).filter(|value| !y.is_log() || *value > 0.0));
        let text = |size: i32| ("sans-serif", size, &INK).into_text_style(root);
        let mut chart = ChartBuilder::on(root)
            .margin_top(10)
            .margin_right(24)
            .x_label_area_size(50)
            .y_label_area_size(84)
            .build_cartesian_2d(Axis(left..right, x_ticks), Axis(bottom..top, y_ticks))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(text(14))
            .axis_desc_style(text(14).pos(Pos::new(HPos::Center, VPos::Top)))
            .x_desc(self.x.1)
            .y_desc(self.y.1)
            .x_label_formatter(&|at| x.text(*at))
            .y_label_formatter(&|at| y.text(*at))
            .draw()?;
        for line in &self.lines {
            let style = colour(line).stroke_width(if line.before { 1 } else { 2 });
            for run in line.points.split(|(_, value)| y.is_log() && *value <= 0.0).filter(|run| !run.is_empty()) {
                let placed = run.iter().map(|(at, value)| (*at, y.scaled(*value)));
                // A point by itself is a line too.
                let end = placed.clone().next_back().map(|(at, value)| (at + (right - left) / 200.0, value));
                let lone = end.filter(|_| run.len() == 1);
                chart.draw_series(LineSeries::new(placed.chain(lone), style))?;
            }
        }
        let place = |at: f64| chart.backend_coord(&(at, bottom)).0;
        let places: Vec<i32> = self.hints.iter().map(|(at, _)| place(*at)).collect();
        let middle = |a: i32, b: i32| i32::midpoint(a, b);
        let strips = places.iter().enumerate().map(|(number, here)| {
            let from = number.checked_sub(1).map_or(place(left), |before| middle(places[before], *here));
            let to = places.get(number + 1).map_or(place(right), |after| middle(*here, *after));
            (from, (to - from).max(1))
        });
        Ok(strips.collect())
    }

    /// Names instead of colours, a size that follows the page, and strips that show their hint under the pointer.
    fn finish(&self, svg: &str, title: &str, strips: &[(i32, i32)]) -> String {
        let mut svg = svg.to_owned();
        let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
        let names = [(INK, "var(--ink)".to_owned()), (GRID, "var(--grid)".to_owned())];
        let lines = [false, true].into_iter().flat_map(|before| {
            (0..COLOURS).map(move |number| {
                let line = Line { colour: number, before, points: Vec::new() };
                (colour(&line), format!("var(--{}-{number})", if before { "before" } else { "line" }))
            })
        });
        for (value, name) in names.into_iter().chain(lines) {
            svg = svg.replace(&hex(value), &name);
        }
        let label = escape(title);
        svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1);
        let end = svg.rfind("</svg>").unwrap_or(svg.len());
        let mut hints = String::new();
        for ((x, width), (_, text)) in strips.iter().zip(&self.hints) {
            let (y, height) = (10, HEIGHT - 60);
            let _ = write!(
                hints,
                "<rect class=\"hint\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{}</title></rect>",
                escape(text)
            );
        }
        svg.insert_str(end, &hints);
        svg
    }
}

/// Text that stands in HTML, also between quotes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_scale_holds_its_values_and_has_ticks() {
        let (bottom, top, ticks) = log_range(350.0, 75_000_000.0);
        assert_eq!(ticks, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert!(bottom <= 350_f64.log10() && top >= 75e6_f64.log10());
        let (_, _, ticks) = log_range(1_500.0, 1_800.0);
        assert_eq!(ticks.iter().map(|at| Unit::Latency.text(*at)).collect::<Vec<_>>(), ["1 µs", "2 µs"]);
        assert!(!log_range(1.0, 1.0).2.is_empty());
    }

    #[test]
    fn ticks_have_units() {
        for (unit, at, text) in [
            (Unit::Nines, 0.301, "50 %"),
            (Unit::Nines, 1.0, "90 %"),
            (Unit::Nines, 3.0, "99.9 %"),
            (Unit::Nines, 5.0, "99.999 %"),
            (Unit::Seconds, 0.5, "0.5 s"),
            (Unit::PerSecond, 250_000.0, "250k"),
            (Unit::PerSecond, 50_000.0, "50k"),
            (Unit::Latency, 6.0, "1 ms"),
        ] {
            assert_eq!(unit.text(at), text);
        }
        let (_, top, ticks) = Unit::PerSecond.range([90_000.0, 118_000.0].into_iter());
        assert!(top > 118_000.0 && ticks == [0.0, 50_000.0, 100_000.0], "{ticks:?}");
    }

    #[test]
    fn a_chart_has_lines_names_for_colours_and_a_hint_at_each_place() {
        let line =
            |before| Line { colour: 1, before, points: vec![(0.0, 500.0), (1.0, 0.0), (2.0, 9_000.0), (3.0, 70.0)] };
        let chart = Chart {
            x: (Unit::Seconds, "time"),
            y: (Unit::Latency, "latency"),
            lines: vec![line(false), line(true)],
            hints: vec![(0.0, "at <0> s".into()), (2.0, "at 2 s".into())],
        };
        let svg = chart.draw("a \"title\"").unwrap();
        assert_eq!(svg.matches("stroke=\"var(--line-1)\"").count(), 2, "a gap splits the line: {svg}");
        assert_eq!(svg.matches("stroke=\"var(--before-1)\"").count(), 2);
        assert!(svg.contains("<title>at &lt;0&gt; s</title>") && svg.contains("aria-label=\"a &quot;title&quot;\""));
        assert!(!svg.contains("#0"), "a colour that is not the page's: {svg}");
        let empty = Chart { x: chart.x, y: chart.y, lines: Vec::new(), hints: Vec::new() };
        assert!(empty.draw("nothing").unwrap().contains("</svg>"));
    }
}
