//! A chart of characters, as wide as the terminal: of blocks in eighths, or of ASCII where the terminal is not known to have them. No
//! colour, no control sequence. Pure, but for asking what the terminal is.

/// Heights and widths of less than a character, in eighths.
const BLOCKS: Glyphs = Glyphs {
    rising: [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    growing: [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'],
};
const ASCII: Glyphs = Glyphs {
    rising: [' ', '.', '.', ':', ':', 'i', 'i', '#', '#'],
    growing: [' ', '.', '.', '-', '-', '=', '=', '#', '#'],
};
/// Lines of a chart over time.
const LINES: usize = 6;
/// Widest column of a chart over time, in characters.
const COLUMN_MAX: usize = 4;

/// What charts are drawn with.
#[derive(Debug)]
struct Glyphs {
    rising: [char; 9],
    growing: [char; 9],
}

/// Where a chart is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// How many characters wide.
    pub(super) columns: usize,
    glyphs: &'static Glyphs,
}

impl Terminal {
    /// The one that output goes to; none where it goes elsewhere.
    pub(super) fn of_stdout() -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        let columns = if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = variable("LC_ALL").or_else(|| variable("LC_CTYPE")).or_else(|| variable("LANG"));
        let is_plain = variable("TERM").is_some_and(|terminal| terminal == "dumb") || !has_blocks(locale.as_deref());
        Some(Self { columns, glyphs: if is_plain { &ASCII } else { &BLOCKS } })
    }

    /// `n` of `most` as a bar of at most so many characters. What is not nothing shows.
    pub(super) fn bar(self, n: i64, most: i64, characters: usize) -> String {
        let eighths = eighths(n, most, characters);
        let mut bar = String::from_iter(std::iter::repeat_n(self.glyphs.growing[8], eighths / 8));
        if !eighths.is_multiple_of(8) {
            bar.push(self.glyphs.growing[eighths % 8]);
        }
        bar
    }

    /// Columns side by side, as wide as they fit; where there are more than characters, neighbours are one, as high as their sum.
    pub(super) fn columns_of(self, values: &[i64]) -> Vec<String> {
        let together = values.len().div_ceil(self.columns.max(1)).max(1);
        let values: Vec<i64> = values.chunks(together).map(|values| values.iter().sum()).collect();
        let wide = (self.columns / values.len().max(1)).clamp(1, COLUMN_MAX);
        let most = values.iter().copied().max().unwrap_or(0);
        let line = |from_bottom: usize| {
            let mut line = String::new();
            for value in &values {
                let here = eighths(*value, most, LINES).saturating_sub(from_bottom * 8).min(8);
                line.extend(std::iter::repeat_n(self.glyphs.rising[here], wide.saturating_sub(1).max(1)));
                if wide > 1 {
                    line.push(' ');
                }
            }
            line
        };
        (0..LINES).rev().map(line).collect()
    }
}

/// A locale that is set and is not of UTF-8 has none; where nothing is set, terminals have.
fn has_blocks(locale: Option<&str>) -> bool {
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
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

    fn blocks(columns: usize) -> Terminal {
        Terminal { columns, glyphs: &BLOCKS }
    }

    #[test]
    fn a_bar_is_exact_to_an_eighth() {
        for (n, expected) in
            [(0, ""), (-5, ""), (1, "▏"), (100, "██████████"), (50, "█████"), (55, "█████▌"), (500, "██████████")]
        {
            assert_eq!(blocks(80).bar(n, 100, 10), expected, "{n}");
        }
        assert_eq!(blocks(80).bar(1, i64::MAX, 10), "▏");
        assert_eq!(blocks(80).bar(5, 0, 10), "");
        assert_eq!(Terminal { columns: 80, glyphs: &ASCII }.bar(55, 100, 10), "#####-");
    }

    #[test]
    fn columns_never_are_wider_than_the_terminal() {
        for (values, characters) in [(3, 80), (24, 80), (744, 80), (1, 1), (100, 7), (0, 10)] {
            let values: Vec<i64> = (0..values).collect();
            let lines = blocks(characters).columns_of(&values);
            assert_eq!(lines.len(), LINES);
            assert!(lines.iter().all(|line| line.chars().count() <= characters.max(1)), "{lines:?}");
        }
        assert_eq!(blocks(2).columns_of(&[1, 2]), [" █", " █", " █", "██", "██", "██"]);
    }

    #[test]
    fn only_a_locale_of_another_encoding_has_no_blocks() {
        for (locale, expected) in [
            (None, true),
            (Some("C.UTF-8"), true),
            (Some("de_DE.utf8"), true),
            (Some("C"), false),
            (Some("de_DE"), false),
        ] {
            assert_eq!(has_blocks(locale), expected, "{locale:?}");
        }
    }
}
