//! What is measured against its definition, and the page as a reader of its file finds it.

use super::measure::{bands, measured};
use super::*;

fn rows() -> Vec<Judged> {
    let row = |time: i64, positive, weight, said| Judged {
        time,
        positive,
        weight,
        said: [said, 0.5],
    };
    vec![
        row(0, true, 1.0, 0.9),
        row(1, false, 1.0, 0.6),
        row(2, true, 2.0, 0.6),
        row(3, false, 3.0, 0.2),
        row(4, true, 1.0, 0.1),
    ]
}

/// Goal: AUC, loss, entropy, level and calibration are what their definitions say, by weight. Method: a handful of rows with equal probabilities, against sums over all pairs and rows; and rows of one
/// sort, of which there is no AUC.
#[test]
fn measures_are_as_defined() {
    let rows = rows();
    let found = measured(&rows, 0);
    let (mut won, mut pairs) = (0.0, 0.0);
    for one in rows.iter().filter(|row| row.positive) {
        for other in rows.iter().filter(|row| !row.positive) {
            let above = match one.said[0].total_cmp(&other.said[0]) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            won += one.weight * other.weight * above;
            pairs += one.weight * other.weight;
        }
    }
    assert!((found.auc.unwrap() - won / pairs).abs() < 1e-12);
    assert!((found.rate - 0.5).abs() < 1e-12);
    let loss =
        -(0.9_f64.ln() + 0.4_f64.ln() + 2.0 * 0.6_f64.ln() + 3.0 * 0.8_f64.ln() + 0.1_f64.ln())
            / 8.0;
    assert!((found.loss - loss).abs() < 1e-12);
    assert!((found.entropy.unwrap() - loss / 2.0_f64.ln()).abs() < 1e-12);
    let beside = measured(&rows, 1);
    assert_eq!(beside.auc, Some(0.5));
    assert!((beside.entropy.unwrap() - 1.0).abs() < 1e-12);
    // Each row is a band of its own, but for none: off by 0.1, 0.6, 0.4 twice, 0.2 thrice, 0.9.
    let off = (0.1 + 0.6 + 2.0 * 0.4 + 3.0 * 0.2 + 0.9) / 8.0;
    assert!((found.calibration - off).abs() < 1e-12);
    assert!(bands(&rows, 0, 2)[0].said < bands(&rows, 0, 2)[1].said);
    assert_eq!(measured(&rows[..1], 0).auc, None);
    assert_eq!(measured(&rows[..1], 0).entropy, None);
}

/// Goal: the page holds every task's figures and pictures, and no name can break it. Method: two tasks, one with a name of markup; many rows of one and one row of the other.
#[test]
fn a_page_is_whole() {
    let mut report = Report::default();
    for at in 0..3_000 {
        let log_odds = f32::from(at as u8) / 64.0 - 2.0;
        report.take("click", at * 3_600_000, (at % 3 == 0, 1.0), [log_odds, 0.0]);
    }
    report.take("<b>", 5, (true, 1.0), [0.3, 0.1]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let words = [["a & b".to_owned(), "1 < 2".to_owned()]];
    report.write(&path, &words).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains("<h2>click</h2>") && page.contains("<h2>&lt;b&gt;</h2>"));
    assert!(page.contains("a &amp; b") && page.contains("1 &lt; 2"));
    // One row has no AUC: nine pictures of ten.
    assert_eq!(page.matches("<svg").count(), 9);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("class=\"line s0\" points").count(), 9);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert!(page.ends_with("</html>\n"));
    // What is no file of its own is written into, not replaced.
    let link = folder.path().join("link.html");
    let other = folder.path().join("other.html");
    std::os::unix::fs::symlink(&other, &link).unwrap();
    Report::default().write(&link, &words).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let page = std::fs::read_to_string(&other).unwrap();
    assert!(page.ends_with("</html>\n"));
    let error = Report::default().write(&folder.path().join("no/where"), &[]);
    assert!(error.unwrap_err().to_string().contains("where"));
}
