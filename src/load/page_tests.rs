use super::*;
use crate::load::fake::Fake;
use crate::load::layers::{LayerSpread, Split};
use crate::load::run::{LoadOptions, run};

fn figures(options: &str) -> Figures {
    let fake = Fake::default();
    let text = format!("[mix & match]\nrw=randrw\nkeys=500\nnumber_ios=5k\nbs=64\n{options}");
    Figures::of(&run(&text, "<t>.fio", &LoadOptions::default(), |options| fake.connect(options)).unwrap())
}

/// Every tag that is opened is closed, and in its place.
fn assert_well_formed(page: &str) {
    const VOID: [&str; 3] = ["meta", "!doctype", "rect"];
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split_ascii_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some("rect") => {}
            Some(name) => assert_eq!(open.pop(), Some(name), "at </{name}>"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn a_page_needs_nothing_beside_it_and_says_what_ran() {
    let run = figures("modify_percent=50\n");
    let text = page(&run, None).unwrap();
    assert_well_formed(&text);
    for part in [
        "<title>forebay load: &lt;t&gt;.fio</title>",
        "mix &amp; match: latency distribution",
        "mix &amp; match: throughput",
        "mix &amp; match: latency of a read over time",
        "mix &amp; match: latency of a read-modify-write over time",
        "operations a second",
        "GiB, Linux",
        " UTC",
        "feature perf-diagnostics",
    ] {
        assert!(text.contains(part), "{part:?} is missing");
    }
    // The name of SVG's namespace is no address that anything is asked of.
    let addresses = text.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http") && !text.contains("<script") && !text.contains("url("));
    assert!(text.len() < 300_000, "{} B", text.len());
}

#[test]
fn two_runs_are_compared_by_the_names_of_their_jobs() {
    let (mut run, mut other) = (figures(""), figures(""));
    assert!(!page(&run, None).unwrap().contains("stroke=\"var(--before-"));
    let kind = |figures: &mut Figures, p50_ns| figures.jobs[0].kinds[0].p50_ns = p50_ns;
    kind(&mut run, 3_000);
    kind(&mut other, 2_000);
    let text = page(&run, Some(&other)).unwrap();
    assert_well_formed(&text);
    assert!(text.contains("<td>3 µs <small>1.50 x</small></td>"), "{text}");
    assert!(text.contains("stroke=\"var(--before-0)\"") && text.contains("dashed, the other run: &lt;t&gt;.fio"));
    other.jobs[0].name = "another".into();
    assert!(!page(&run, Some(&other)).unwrap().contains("<small>"), "nothing to compare with");
}

#[test]
fn layers_add_up_to_bars() {
    let mut run = figures("");
    let spread = |name: &str| LayerSpread { name: name.into(), p50_ns: 1, p999_ns: 2, max_ns: 3 };
    let split = |latency_ns| Split { latency_ns, spent_ns: vec![latency_ns / 4, latency_ns - latency_ns / 4] };
    let layers = vec![spread("ring wait"), spread("store")];
    run.jobs[0].layers = Some(LayerFigures { requests: 9, p50: split(400), p999: split(8_000), layers });
    let text = page(&run, None).unwrap();
    assert_well_formed(&text);
    for part in ["An operation at p99.9: 8 µs", "title=\"ring wait: 25.0 %\"", "<td>6 µs <small>75.0 %</small></td>"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // Another build may have other layers, in another order.
    let mut other = figures("");
    let layers = vec![spread("store"), spread("decode"), spread("ring wait")];
    let split = |spent_ns: [u64; 3]| Split { latency_ns: 200, spent_ns: spent_ns.to_vec() };
    let (p50, p999) = (split([150, 0, 50]), split([2_000, 0, 4_000]));
    other.jobs[0].layers = Some(LayerFigures { requests: 9, p50, p999, layers });
    let text = page(&run, Some(&other)).unwrap();
    assert_well_formed(&text);
    for part in [
        "In the other run: 200 ns, so this is <small>2.00 x</small>",
        "title=\"decode: 0.0 %\"",
        "<td>6 µs <small>75.0 %</small> <small>3.00 x</small></td>",
        "<td>2 µs <small>25.0 %</small> <small>0.50 x</small></td>",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[test]
fn an_empty_job_with_an_error_is_shown() {
    let mut run = figures("");
    run.jobs[0].kinds.clear();
    run.jobs[0].error = Some("no <room>".into());
    let text = page(&run, None).unwrap();
    assert_well_formed(&text);
    assert!(text.contains("Ended with an error: no &lt;room&gt;"));
}
