//! The name of a flag or a model that is most similar to a word.

/// Most characters of a name that are compared: a longer word is no name.
const NAME_MAX: usize = 128;

/// Returns the candidate most similar to `word`: a candidate that `word` begins, else the candidate the
/// fewest edits away, if the edits are at most a third of `word`.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: Vec<char> = word.chars().map(fold).take(NAME_MAX).collect();
    let allowed = word.len().div_ceil(3);
    candidates
        .filter_map(|candidate| {
            let name: Vec<char> = candidate.chars().map(fold).take(NAME_MAX).collect();
            let begins = word.len() >= 2 && name.starts_with(&word);
            if !begins && name.len().abs_diff(word.len()) > allowed {
                return None;
            }
            let edits = if begins { 0 } else { edits(&word, &name) };
            (begins || edits <= allowed).then_some((
                edits,
                name.len().abs_diff(word.len()),
                candidate,
            ))
        })
        .min()
        .map(|(_, _, candidate)| candidate)
}

/// Dashes and underscores are the same, and so are cases.
fn fold(letter: char) -> char {
    if letter == '_' { '-' } else { letter.to_ascii_lowercase() }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `from` into `to`.
fn edits(from: &[char], to: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut now = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other);
            let mut best = replaced.min(last[column + 1] + 1).min(now[column] + 1);
            let swapped =
                row > 0 && column > 0 && *letter == to[column - 1] && from[row - 1] == *other;
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            now.push(best);
        }
        before = std::mem::replace(&mut last, now);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_insertions_replacements_and_swaps() {
        let count = |from: &str, to: &str| {
            edits(&from.chars().collect::<Vec<_>>(), &to.chars().collect::<Vec<_>>())
        };
        assert_eq!(count("", "abc"), 3);
        assert_eq!(count("tensor", "tensor"), 0);
        assert_eq!(count("tensro", "tensor"), 1);
        assert_eq!(count("tp-size", "pp-size"), 1);
        assert_eq!(count("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_prefers_what_the_word_begins_and_gives_up_on_nonsense() {
        let names = ["tensor-parallel-size", "data-parallel-size", "tp-size"];
        let find = |word| nearest(word, names.into_iter());
        assert_eq!(find("tensor-para"), Some("tensor-parallel-size"));
        assert_eq!(find("tensor_paralel_size"), Some("tensor-parallel-size"));
        assert_eq!(find("xyzzy"), None);
    }
}
