//! What the rounds of a bench come to.

/// Median (of an even number the mean of the middle two), least and most; None of nothing.
pub fn summary(figures: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    Some([f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]), least, most])
}

/// What stands behind `--rounds`.
pub fn rounds(word: Option<String>) -> Result<usize, String> {
    match word.and_then(|word| word.parse().ok()) {
        Some(rounds) if rounds > 0 => Ok(rounds),
        _ => Err("--rounds needs a number from 1 on".to_owned()),
    }
}
