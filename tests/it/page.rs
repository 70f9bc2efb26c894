//! report.html in a real browser: offline, with and without its script, on a desk and on a phone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use autotune::report::{FinalVerdict, Page, report_html};
use autotune::results::Study;
use autotune::store::Sqlite;
use serde_json::json;

use crate::browser::Browser;
use crate::report::{poison, study};
use crate::synthetic::Synthetic;

fn write(dir: &Path, name: &str, study: &Study) -> String {
    let path = dir.join(name);
    std::fs::write(&path, report_html(&study.summary(), Page::File)).unwrap();
    format!("file://{}", path.display())
}

/// Every section and chart that the page must have, with a mark that is only there when it was drawn.
const MARKS: [&str; 18] = [
    "header #verdict",
    "figure.finals svg path.mean",
    "#configs tr.changed",
    "#configs pre",
    "#binds p",
    "figure.cost svg path.front",
    "figure.cost svg circle.ring",
    "figure.history svg path.front",
    "figure.history svg path.today",
    "figure.importance svg rect.bar",
    "figure.slice svg circle.trial",
    "figure.curve svg path.curve.best",
    "figure.curve svg path.curve.today",
    "figure.curve svg path.every",
    "figure.heats svg rect.cell",
    "figure.rates tbody tr",
    "#table tbody tr td",
    "#warnings h2",
];

/// Breaks when the page needs the network, throws, lacks a chart, or sorting or filtering does nothing.
#[tokio::test]
async fn the_page_works_offline_in_a_browser() {
    let Some(mut b) = Browser::start() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let url = write(tmp.path(), "report.html", &study(Synthetic::default()).await);
    let offline = json!({ "offline": true, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
    b.call("Network.emulateNetworkConditions", offline);
    b.screen(1280, 900, false);
    b.open(&url);
    for mark in MARKS {
        assert_ne!(
            b.eval(&format!("document.querySelectorAll('{mark}').length")),
            json!(0),
            "{mark} is missing"
        );
    }
    assert_eq!(
        b.eval("document.querySelectorAll('figure.slice').length"),
        json!(5),
        "one a parameter"
    );
    assert_eq!(
        b.eval("document.querySelectorAll('.heat').length"),
        json!(10),
        "one a pair"
    );
    assert_eq!(
        b.eval("[...document.querySelectorAll('.heat')].filter(h => h.offsetHeight).length"),
        json!(1)
    );
    let order = "['#verdict', '#configs', '#binds', '#charts', 'figure.finals', 'figure.cost', 'figure.history', 'figure.importance', 'figure.curve', \
                 '#trials', '#warnings', '#about'].every((s, i, all) => i === 0 || document.querySelector(all[i - 1])\
                 .compareDocumentPosition(document.querySelector(s)) & 4)";
    assert_eq!(b.eval(order), json!(true), "the decision first, then the reasons");
    assert!(
        b.eval("document.body.scrollWidth <= innerWidth")
            .as_bool()
            .unwrap(),
        "no sideways scrolling"
    );

    // Sorting: numbers as numbers, both ways, empty cells last.
    let rates = "[...document.querySelectorAll('#table tbody tr')].map(t => t.cells[3].dataset.v)";
    let click =
        "[...document.querySelectorAll('#table thead button')].find(b => b.textContent == 'rps').click()";
    for down in [true, false] {
        b.eval(click);
        let column: Vec<String> = serde_json::from_value(b.eval(rates)).unwrap();
        let numbers: Vec<f64> = column.iter().filter_map(|t| t.parse().ok()).collect();
        let ordered = numbers
            .windows(2)
            .all(|w| if down { w[0] >= w[1] } else { w[0] <= w[1] });
        assert!(ordered && numbers.len() > 20, "{column:?}");
        assert!(column[numbers.len()..].iter().all(String::is_empty), "{column:?}");
    }
    // Filtering by outcome and by words.
    let choose = |id: &str, value: &str| {
        format!(
            "(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('input', {{ bubbles: true }})); }})(document.getElementById('{id}'))"
        )
    };
    let shown =
        "[...document.querySelectorAll('#table tbody tr')].filter(t => !t.hidden).map(t => t.dataset.o)";
    b.eval(&choose("outcome", "failed"));
    let left: Vec<String> = serde_json::from_value(b.eval(shown)).unwrap();
    assert!(!left.is_empty() && left.iter().all(|o| o == "failed"), "{left:?}");
    b.eval(&choose("filter", "oom nosuchword"));
    assert_eq!(b.eval(shown), json!([]));
    b.eval(&choose("filter", ""));
    b.eval(&choose("outcome", ""));
    // Any two parameters: the map of the pair is shown, alone, and the same one twice is no pair.
    for (one, two, pair) in [
        ("3", "2", "2 3"),
        ("2", "2", "0 2"),
        ("4", "0", "0 4"),
        ("3", "1", "1 3"),
    ] {
        b.eval(&choose("one", one));
        b.eval(&choose("two", two));
        let shown =
            "[...document.querySelectorAll('.heat')].filter(h => h.offsetHeight).map(h => h.dataset.pair)";
        let seen: Vec<String> = serde_json::from_value(b.eval(shown)).unwrap();
        assert_eq!(seen, [pair], "{one} {two}");
    }
    // A mark's figures under the pointer, as a finger or a mouse asks for them.
    for mark in [
        "figure.cost circle.best",
        "figure.history path.today",
        ".heat.shown rect.cell",
        "figure.curve circle.best",
    ] {
        let seen = b.eval(&format!(
            "(e => {{ e.dispatchEvent(new PointerEvent('pointerover', {{ bubbles: true, clientX: 5, clientY: 5 }})); \
             return document.getElementById('tip').textContent; }})(document.querySelector('{mark}'))"
        ));
        assert!(seen.as_str().is_some_and(|t| t.contains("rps")), "{mark}: {seen}");
    }
    // The lines to paste are there to be taken.
    b.eval("document.querySelector('button.copy').click()");
    assert!(
        b.eval("getSelection().toString()")
            .as_str()
            .unwrap()
            .contains("POOL_SIZE=")
    );
    // A thumbnail lays its trial over the curves.
    b.eval("document.querySelector('#table tr:nth-child(3) svg.thumb').dispatchEvent(new MouseEvent('click', { bubbles: true }))");
    assert_ne!(b.eval("document.getElementById('over').value"), json!(""));
    let trial = b.eval("document.querySelector('#over option:nth-child(5)').value");
    b.eval(&choose("over", trial.as_str().unwrap()));
    assert_eq!(b.eval("[...document.querySelectorAll('path.picked')].filter(p => p.getAttribute('d').length > 20).length"), json!(5));

    assert_eq!(b.complaints(), Vec::<String>::new());
    assert_eq!(b.requests(), [url], "the file itself is the only request");
}

/// Breaks when the page hides something from readers without scripts.
#[tokio::test]
async fn without_javascript_nothing_is_missing() {
    let Some(mut b) = Browser::start() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let study = study(Synthetic::default()).await;
    let url = write(tmp.path(), "report.html", &study);
    b.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    b.open(&url);
    for mark in MARKS {
        assert_ne!(
            b.eval(&format!("document.querySelectorAll('{mark}').length")),
            json!(0),
            "{mark} is missing"
        );
    }
    assert_eq!(
        b.eval("[...document.querySelectorAll('.heat')].filter(h => h.offsetHeight).length"),
        json!(10),
        "all maps"
    );
    assert_eq!(
        b.eval("[...document.querySelectorAll('.js')].filter(h => h.offsetHeight).length"),
        json!(0),
        "no dead controls"
    );
    assert_eq!(
        b.eval("document.querySelectorAll('#table tbody tr').length"),
        json!(study.trials.len())
    );
    assert_eq!(b.complaints(), Vec::<String>::new());
}

/// Breaks when markup from outside becomes an element, or a script of its runs.
#[tokio::test]
async fn hostile_text_is_shown_as_text() {
    let mut study = study(Synthetic {
        trials: 30,
        ..Synthetic::default()
    })
    .await;
    poison(&mut study);
    let html = String::from_utf8(report_html(&study.summary(), Page::File)).unwrap();
    assert_eq!(html.matches("<script").count(), 2, "the data and the page's own");
    assert!(!html.contains("<img") && !html.contains(['\u{0}', '\u{202e}']));
    let Some(mut b) = Browser::start() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let url = write(tmp.path(), "report.html", &study);
    b.open(&url);
    assert_eq!(
        b.eval("document.querySelectorAll('img, main script:not([type])').length"),
        json!(0)
    );
    assert_eq!(
        b.eval("document.querySelector('.study').textContent.includes('<script>alert(1)')"),
        json!(true)
    );
    assert_eq!(b.complaints(), Vec::<String>::new());
    assert_eq!(b.requests(), [url]);
}

/// Breaks when a study that has only just begun has no page, or a page that throws.
#[tokio::test]
async fn empty_and_small_studies_have_a_page() {
    let tmp = tempfile::tempdir().unwrap();
    let mut browser = Browser::start();
    for trials in 0..=3 {
        let mut study = study(Synthetic {
            trials,
            pairs: 0,
            ..Synthetic::default()
        })
        .await;
        for probes in [true, false] {
            if !probes {
                study.trials.iter_mut().for_each(|t| t.probes.clear());
            }
            let url = write(tmp.path(), "report.html", &study);
            if let Some(b) = &mut browser {
                b.open(&url);
                assert_eq!(b.complaints(), Vec::<String>::new(), "{trials} trials");
            }
        }
    }
}

/// A study of 1,000 trials and 20,000 probes: its size, and that the page opens. Breaks when something in
/// the page grows with the square of the trials.
#[tokio::test]
async fn a_large_study_stays_small() {
    // In memory where the machine has such a folder: the journal syncs each of 20,000 writes.
    let shm = Path::new("/dev/shm");
    let tmp = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    // For a look at `autotune report` on it from outside: a folder that stays.
    let kept = std::env::var_os("AUTOTUNE_LARGE_STUDY").map(PathBuf::from);
    let dir = kept.unwrap_or_else(|| tmp.path().to_owned());
    let journal = Sqlite::open(&dir).await.unwrap();
    Synthetic {
        trials: 1_000,
        probes: 24,
        pairs: 8,
        ..Synthetic::default()
    }
    .fill(&journal)
    .await;
    let begun = Instant::now();
    let study = Study::read(&journal).await.unwrap();
    let read = begun.elapsed();
    let probes: usize = study.trials.iter().map(|t| t.probes.len()).sum();
    assert!(study.trials.len() >= 1_000 && probes >= 20_000, "{probes}");
    let page = report_html(&study.summary(), Page::File);
    eprintln!(
        "{} trials, {probes} probes: read {read:?}, drawn {:?}, {} bytes",
        study.trials.len(),
        begun.elapsed() - read,
        page.len()
    );
    assert!(page.len() < 4_000_000, "{} bytes", page.len());
    let path = tmp.path().join("report.html");
    std::fs::write(&path, page).unwrap();
    if let Some(mut b) = Browser::start() {
        b.open(&format!("file://{}", path.display()));
        let ms = b.eval("performance.timing.loadEventEnd - performance.timing.navigationStart");
        eprintln!("opened in {ms} ms");
        assert_eq!(b.complaints(), Vec::<String>::new());
    }
    journal.close().await;
}

/// Not a check: pictures of the page for people, where `AUTOTUNE_SCREENSHOTS` names a folder.
#[tokio::test]
async fn screenshots_when_asked() {
    let Some(dir) = std::env::var_os("AUTOTUNE_SCREENSHOTS").map(PathBuf::from) else {
        return;
    };
    let Some(mut b) = Browser::start() else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let win = study(Synthetic::default()).await;
    let mut keep = win.clone();
    if let Some(d) = &mut keep.decision {
        d.verdict = FinalVerdict::NoGain;
        d.gain = [-0.012, 0.009, 0.031];
    }
    let mut open = win.clone();
    open.decision = None;
    open.trials.retain(|t| t.round.is_none());
    for (kind, study) in [("win", &win), ("keep", &keep), ("open", &open)] {
        let url = write(&dir, &format!("{kind}.html"), study);
        for (name, width, height, dark) in [
            ("desktop-light", 1280, 900, false),
            ("desktop-dark", 1280, 900, true),
            ("phone-light", 390, 844, false),
            ("phone-dark", 390, 844, true),
        ] {
            b.screen(width, height, dark);
            b.open(&url);
            assert!(b.wait_for("document.readyState == 'complete'", Duration::from_secs(5)));
            assert_eq!(
                b.eval("document.documentElement.scrollWidth <= innerWidth"),
                json!(true),
                "{name} scrolls sideways"
            );
            b.screenshot(&dir.join(format!("{kind}-{name}.png")), true);
            b.screenshot(&dir.join(format!("{kind}-{name}-first.png")), false);
        }
    }
}
