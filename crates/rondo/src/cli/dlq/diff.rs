//! Two JSON values side by side: the lines that differ, and a few around them.

use console::Style;
use serde_json::Value;

/// Lines of either side beyond which nothing is compared.
const LINES_MAX: usize = 2_000;
/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 2;

/// What a line of a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Both,
    Before,
    After,
}

/// The lines of a comparison, as `diff` writes them, coloured if stdout is a terminal. None if nothing differs.
pub(super) fn lines(before: &Value, after: &Value) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let (before, after) = (text(before), text(after));
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if before.len().max(after.len()) > LINES_MAX {
        return vec![format!(
            "too long to be compared: {} lines and {}",
            before.len(),
            after.len()
        )];
    }
    let compared = compare(&before, &after);
    let near = |n: usize| {
        let around = &compared[n.saturating_sub(CONTEXT)..(n + CONTEXT + 1).min(compared.len())];
        around.iter().any(|(side, _)| *side != Side::Both)
    };
    let mut shown = Vec::new();
    let mut gap = false;
    for (n, (side, line)) in compared.iter().enumerate() {
        if !near(n) {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) {
            shown.push("  …".to_owned());
        }
        shown.push(match side {
            Side::Both => format!("  {line}"),
            Side::Before => Style::new().red().apply_to(format!("- {line}")).to_string(),
            Side::After => Style::new().green().apply_to(format!("+ {line}")).to_string(),
        });
    }
    if gap {
        shown.push("  …".to_owned());
    }
    shown
}

/// The longest common subsequence of lines, and what stands between.
fn compare<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<(Side, &'a str)> {
    let width = after.len() + 1;
    let mut common = vec![0_u16; (before.len() + 1) * width];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            common[i * width + j] = if before[i] == after[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut compared = Vec::with_capacity(before.len() + after.len());
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            compared.push((Side::Both, before[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || (i < before.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            compared.push((Side::Before, before[i]));
            i += 1;
        } else {
            compared.push((Side::After, after[j]));
            j += 1;
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_shown_with_a_little_around_it() {
        let before = json!({ "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7 });
        let mut after = before.clone();
        after["d"] = json!(9);
        let shown: Vec<String> = lines(&before, &after)
            .iter()
            .map(|line| console::strip_ansi_codes(line).into_owned())
            .collect();
        assert_eq!(
            shown,
            [
                "  …",
                "    \"b\": 2,",
                "    \"c\": 3,",
                "-   \"d\": 4,",
                "+   \"d\": 9,",
                "    \"e\": 5,",
                "    \"f\": 6,",
                "  …"
            ]
        );
        assert!(lines(&before, &before).is_empty());
    }
}
