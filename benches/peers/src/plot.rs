//! The results as a picture: puts a second of 100 B, a panel a class and shape, on a logarithmic scale.

use std::path::Path;

use plotters::prelude::*;

use crate::case::{Class, MANY, ONE, PeerName, Shape};
use crate::figures::{Failure, summary};
use crate::report::number;
use crate::run::{Results, Series};

const SIZE: (u32, u32) = (1_200, 1_020);
const PANELS: [(Class, Shape); 6] = [
    (Class::Strict, ONE),
    (Class::Strict, MANY),
    (Class::Buffered, ONE),
    (Class::Buffered, MANY),
    (Class::Memory, ONE),
    (Class::Memory, MANY),
];
const SCALE: std::ops::Range<f64> = 100.0..30e6;
const OWN: RGBColor = RGBColor(0, 95, 135);
const OTHER: RGBColor = RGBColor(170, 180, 190);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

pub fn draw(results: &Results, path: &Path) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = "Puts a second, 16 B keys, 100 B values, the cores awake: median, and least to most";
    let root = root.titled(title, ("sans-serif", 20))?;
    let measured = |(class, shape): &(Class, Shape)| {
        PeerName::ALL.iter().any(|peer| series(results, *peer, *class, *shape).is_some())
    };
    for (area, (class, shape)) in root.split_evenly((3, 2)).iter().zip(PANELS.into_iter().filter(measured)) {
        panel(results, area, class, shape)?;
    }
    Ok(root.present()?)
}

fn series(results: &Results, peer: PeerName, class: Class, shape: Shape) -> Option<&Series> {
    results.find(peer, class, 100, shape, true)
}

fn panel(results: &Results, area: &Area<'_>, class: Class, shape: Shape) -> Result<(), Failure> {
    let mut bars: Vec<(PeerName, [f64; 3])> = Vec::new();
    for peer in PeerName::ALL {
        if let Some(series) = series(results, peer, class, shape) {
            let rates = summary(&series.values(|figures| figures.per_second));
            bars.extend(rates.map(|rates| (peer, rates)));
        }
    }
    // The fastest on top.
    bars.sort_by(|(_, a), (_, b)| a[0].total_cmp(&b[0]));
    let name = class.label().split(':').next().unwrap_or_default();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{name}, {}", shape.label()), ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .build_cartesian_2d(SCALE.log_scale(), 0.0..bars.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(6)
        .x_label_formatter(&|rate| number(*rate))
        .draw()?;
    for (at, (peer, [median, least, most])) in bars.into_iter().enumerate() {
        let low = at as f64;
        let colour = if peer == PeerName::Forebay { OWN } else { OTHER };
        let bar = Rectangle::new([(SCALE.start, low + 0.1), (median, low + 0.9)], colour.filled());
        let spread = PathElement::new(vec![(least, low + 0.5), (most, low + 0.5)], BLACK);
        let text = format!("{}  {}", peer.label(), number(median));
        let label = Text::new(text, (most * 1.1, low + 0.72), ("sans-serif", 13));
        chart.draw_series([bar])?;
        chart.draw_series([spread])?;
        chart.draw_series([label])?;
    }
    Ok(())
}
