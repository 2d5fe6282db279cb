//! A chart over time: SVG with a link in each bar, and the same numbers as a table. The script draws the table with uPlot instead.

use maud::{Markup, html};

use super::number::Unit;

/// One bar.
pub(super) struct Bar {
    /// For people: `3 Nov`, `14:00`.
    pub(super) label: String,
    /// First second of it, since 1970: the script's axis.
    pub(super) from_s: i64,
    /// In the unit.
    pub(super) amount: i64,
    /// Where it leads.
    pub(super) to: String,
    /// It has not come, or not wholly: drawn lighter.
    pub(super) is_open: bool,
}

const HEIGHT: i64 = 180;

/// The chart. `title` is its caption; `what` heads the first column.
pub(super) fn chart(title: &str, what: &str, unit: Unit, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.amount).max().unwrap_or(0);
    if bars.is_empty() || most <= 0 {
        return html! { div.empty { p { strong { "Nothing flowed in this time." } } p { "As soon as something does, it shows here within seconds." } } };
    }
    let top = round_up(most, unit);
    let count = bars.len() as i64;
    // A unit is a hundredth of a bar, so that the gaps between bars are whole numbers too.
    let (wide, bar_wide) = (count * 100, if count > 100 { 90 } else { 76 });
    let high = |amount: i64| {
        let high = i128::from(amount.max(0)) * i128::from(HEIGHT) / i128::from(top);
        i64::try_from(high).unwrap_or(HEIGHT).max(i64::from(amount > 0))
    };
    let labelled = [0, bars.len() / 4, bars.len() / 2, bars.len() * 3 / 4, bars.len() - 1];
    let mut labelled = labelled.to_vec();
    labelled.dedup();
    html! {
        figure.chart data-chart=(unit.name()) {
            figcaption { (title) }
            div.plot {
                div.scale aria-hidden="true" { span { (unit.short(top)) } span { (unit.short(top / 2)) } span { "0" } }
                svg role="group" aria-label=(title) viewBox=(format!("0 0 {wide} {HEIGHT}")) preserveAspectRatio="none" width="100%" height=(HEIGHT) {
                    @for at in [0, HEIGHT / 2, HEIGHT] {
                        line.grid x1="0" x2=(wide) y1=(at) y2=(at) vector-effect="non-scaling-stroke" {}
                    }
                    @for (n, bar) in (0..).zip(bars) {
                        a href=(bar.to) aria-label=(format!("{}: {}", bar.label, unit.exact(bar.amount))) {
                            title { (bar.label) ": " (unit.exact(bar.amount)) }
                            rect.reach x=(n * 100) y="0" width="100" height=(HEIGHT) {}
                            rect.bar.open[bar.is_open] x=(n * 100 + (100 - bar_wide) / 2) y=(HEIGHT - high(bar.amount)) width=(bar_wide) height=(high(bar.amount)) {}
                        }
                    }
                }
                div.times aria-hidden="true" { @for at in labelled { span { (bars[at].label) } } }
            }
            details {
                summary { "The same as a table" }
                table.numbers {
                    thead { tr { th scope="col" { (what) } th.n scope="col" { "Amount" } th.n scope="col" { "Exact" } } }
                    tbody {
                        @for bar in bars {
                            tr data-from=(bar.from_s) data-amount=(bar.amount) data-open=[bar.is_open.then_some("")] {
                                th scope="row" { a href=(bar.to) { (bar.label) } }
                                td.n { (unit.short(bar.amount)) }
                                td.n { (unit.exact(bar.amount)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The next round number: 1, 2 or 5 and zeros; whole hours for time.
fn round_up(n: i64, unit: Unit) -> i64 {
    let mut step: i64 = if unit == Unit::Seconds && n > 3600 { 3600 } else { 1 };
    loop {
        for factor in [1, 2, 5] {
            let round = step.saturating_mul(factor);
            if round >= n {
                // Both ends of the scale and its middle are labelled.
                return round.max(2);
            }
        }
        step = step.saturating_mul(10);
    }
}

/// A share as a bar in a table; a picture of the number beside it.
pub(super) fn share(part: i64, whole: i64) -> Markup {
    let percent = permille(part, whole) / 10;
    html! {
        svg.share viewBox="0 0 100 6" width="100%" height="6" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.track width="100" height="6" {}
            rect.bar width=(percent.clamp(i64::from(part > 0), 100)) height="6" {}
        }
    }
}

/// A share as text.
pub(super) fn percent(part: i64, whole: i64) -> String {
    match permille(part, whole) {
        0 if part > 0 && whole > 0 => "< 0.1 %".to_owned(),
        permille => format!("{}.{} %", permille / 10, permille % 10),
    }
}

fn permille(part: i64, whole: i64) -> i64 {
    if whole <= 0 || part <= 0 {
        return 0;
    }
    i64::try_from(i128::from(part) * 1000 / i128::from(whole)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (n, expected) in [(1, 2), (3, 5), (5, 5), (6, 10), (1_234, 2_000), (5_000_001, 10_000_000)] {
            assert_eq!(round_up(n, Unit::Bytes), expected, "{n}");
        }
        assert_eq!(round_up(i64::MAX, Unit::Bytes), i64::MAX);
        assert_eq!(round_up(7_300, Unit::Seconds), 18_000);
    }

    #[test]
    fn shares_are_never_rounded_to_nothing() {
        assert_eq!(percent(1, 1_000_000), "< 0.1 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(5, 0), "0.0 %");
        assert_eq!(percent(7, 7), "100.0 %");
    }
}
