//! A chart of block characters, as wide as the terminal. Pure, but for asking how wide that is.

/// Heights and widths of less than a character, in eighths.
const RISING: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const GROWING: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// Lines of a chart over time.
const LINES: usize = 6;
/// Widest column of a chart over time, in characters.
const COLUMN_MAX: usize = 4;

/// How many characters wide the terminal is; none where output is none.
pub(super) fn terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
}

/// `n` of `most` as a bar of at most so many characters. What is not nothing shows.
pub(super) fn bar(n: i64, most: i64, characters: usize) -> String {
    let eighths = eighths(n, most, characters);
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(GROWING[eighths % 8]);
    }
    bar
}

/// Columns side by side, as wide as they fit; where there are more than characters, neighbours are one, as high as their sum.
pub(super) fn columns(values: &[i64], characters: usize) -> Vec<String> {
    let together = values.len().div_ceil(characters.max(1)).max(1);
    let values: Vec<i64> = values.chunks(together).map(|values| values.iter().sum()).collect();
    let wide = (characters / values.len().max(1)).clamp(1, COLUMN_MAX);
    let most = values.iter().copied().max().unwrap_or(0);
    let line = |from_bottom: usize| {
        let mut line = String::new();
        for value in &values {
            let here = eighths(*value, most, LINES).saturating_sub(from_bottom * 8).min(8);
            line.extend(std::iter::repeat_n(RISING[here], wide.saturating_sub(1).max(1)));
            if wide > 1 {
                line.push(' ');
            }
        }
        line
    };
    (0..LINES).rev().map(line).collect()
}

fn eighths(n: i64, most: i64, characters: usize) -> usize {
    if n <= 0 || most <= 0 {
        return 0;
    }
    let eighths = i128::from(n) * (characters as i128) * 8 / i128::from(most);
    usize::try_from(eighths).unwrap_or(0).clamp(1, characters * 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_exact_to_an_eighth() {
        for (n, expected) in
            [(0, ""), (-5, ""), (1, "▏"), (100, "██████████"), (50, "█████"), (55, "█████▌"), (500, "██████████")]
        {
            assert_eq!(bar(n, 100, 10), expected, "{n}");
        }
        assert_eq!(bar(1, i64::MAX, 10), "▏");
        assert_eq!(bar(5, 0, 10), "");
    }

    #[test]
    fn columns_never_are_wider_than_the_terminal() {
        for (values, characters) in [(3, 80), (24, 80), (744, 80), (1, 1), (100, 7), (0, 10)] {
            let values: Vec<i64> = (0..values).collect();
            let lines = columns(&values, characters);
            assert_eq!(lines.len(), LINES);
            assert!(lines.iter().all(|line| line.chars().count() <= characters.max(1)), "{lines:?}");
        }
        assert_eq!(columns(&[1, 2], 2), [" █", " █", " █", "██", "██", "██"]);
    }
}
