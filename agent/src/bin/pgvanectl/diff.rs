//! What changed between two texts, line by line. Pure.

/// The lines of both texts: kept ones behind two blanks, removed behind `- `, added behind `+ `; kept lines far
/// from a change are left out.
pub(crate) fn diff(before: &str, after: &str) -> String {
    const CONTEXT: usize = 3;
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let lines = script(&a, &b);
    let changed: Vec<usize> = lines.iter().enumerate().filter(|(_, l)| l.0 != ' ').map(|(i, _)| i).collect();
    let mut text = String::new();
    let mut skipped = false;
    for (i, (mark, line)) in lines.iter().enumerate() {
        if changed.iter().any(|c| c.abs_diff(i) <= CONTEXT) {
            if skipped {
                text.push_str("  ...\n");
            }
            skipped = false;
            text.push_str(&format!("{mark} {line}\n"));
        } else {
            skipped = true;
        }
    }
    text
}

/// The shortest way from `a` to `b` that keeps a longest common subsequence.
fn script<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    // common[i][j]: length of the longest common subsequence of a[i..] and b[j..].
    let mut common = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_with_their_surroundings() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let after = "a\nb\nc\nd\ne\nf\nX\nh\ni\n";
        assert_eq!(diff(before, after), "  ...\n  d\n  e\n  f\n- g\n+ X\n  h\n+ i\n");
        assert_eq!(diff(before, before), "");
        assert_eq!(diff("", "x\n"), "+ x\n");
        assert_eq!(diff("x\n", ""), "- x\n");
    }
}
