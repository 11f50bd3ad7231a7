//! No circles inside a crate. Each top-level module, its file and its folder, is a room, and so is the root of
//! the crate, which depends on all of them; a room that names something of another depends on it. Test code
//! is left out. And a word is one type: no two types of a crate have the same name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The rooms of a crate: each with the rooms that it names, and one thing that it names there.
type Rooms = BTreeMap<String, BTreeMap<String, String>>;

/// What stands between the words of Rust code that matter here.
const MARKS: [&str; 9] = ["::", "{", "}", "(", ")", "[", "]", ",", ";"];

#[test]
fn no_crate_has_a_circle_of_modules() {
    let mut wrong = String::new();
    for (name, src) in crates() {
        if let Some(circle) = circle(&rooms(&src)) {
            wrong += &format!("{name}: {circle}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_crate_has_one_type_of_a_name() {
    let mut wrong = String::new();
    for (name, src) in crates() {
        let (_, code) = root(&src);
        let inner = modules(&code);
        let inner = inner.iter().flat_map(|module| module_words(&src, module, 1));
        let mut seen = BTreeSet::new();
        for named in types(&[code.clone(), inner.collect()].concat()) {
            if !seen.insert(named.clone()) {
                wrong += &format!("{name}: two types have the name `{named}`\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn declared_types_are_found() {
    let source = r#"
        pub(crate) struct A<'a>(&'a str); enum B { C }
        // struct Comment;
        trait D { type Assigned; }
        type E = (A<'static>, F);
        #[cfg(test)]
        mod tests { struct G; }
        fn f() { struct H { text: &'static str } print("struct Text"); }
    "#;
    assert_eq!(types(&words(source)), ["A", "B", "D", "H"]);
}

#[test]
fn a_circle_is_found_and_test_code_is_left_out() {
    let words = words(
        r##"
        use crate::{a::{B, C}, D as E}; // use crate::comment;
        fn f<'a>() { crate::inline::g("crate::text", r#"crate::"raw"#, 'c', '"'); }
        #[cfg(test)]
        mod tests { use crate::test; }
        pub(crate) use crate::last;
        "##,
    );
    assert_eq!(names(&words), ["D", "a", "inline", "last"].map(str::to_owned).into());
    let source =
        "use super::super::a; mod b { use super::own; use super::super::super::c; } use super::d;";
    let rooted = from_root(&self::words(source), 2);
    assert_eq!(names(&rooted), ["a", "c"].map(str::to_owned).into());
    let root = self::words("mod a; use a::A; pub use other::B; struct C;");
    let known = imports(&root, &["a".to_owned()].into());
    let known = known.iter().map(|(name, module)| (&**name, module.as_deref()));
    assert!(known.eq([("A", Some("a")), ("B", None)]), "`C` is the root's own");
    let edge = |to: &str| BTreeMap::from([(to.to_owned(), "Thing".to_owned())]);
    let rooms = [("a", "b"), ("b", "c"), ("c", "b")].map(|(from, to)| (from.to_owned(), edge(to)));
    let found = circle(&rooms.into()).expect("there is one");
    assert_eq!(found, "`b` names `Thing` of `c`, which names `Thing` of `b`");
}

/// Each crate, with the folder of its source.
fn crates() -> Vec<(String, PathBuf)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = fs::read_dir(crates).expect("the folder of crates is read");
    let of_crate = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        (entry.file_name().into_string().expect("a name"), entry.path().join("src"))
    };
    let mut crates: Vec<_> = folders.map(of_crate).collect();
    crates.sort();
    crates
}

/// The root of a crate and its words.
fn root(src: &Path) -> (&'static str, Vec<String>) {
    let root = ["lib", "main"].into_iter().find(|it| src.join(it).with_extension("rs").exists());
    let root = root.expect("a crate has a root");
    (root, words(&read(&src.join(root).with_extension("rs"))))
}

/// The names of the types and traits that these words declare; an alias is no type of its own.
fn types(words: &[String]) -> Vec<String> {
    let declared = words.windows(2).filter(|two| ["struct", "enum", "trait"].contains(&&*two[0]));
    // In a macro, the name is a parameter.
    declared.map(|two| two[1].clone()).filter(|name| name != "$").collect()
}

/// The rooms of the crate with its source in this folder.
fn rooms(src: &Path) -> Rooms {
    let (root, code) = root(src);
    let modules = modules(&code);
    let imports = imports(&code, &modules);
    let of_module = |module: &String| {
        let mut named = BTreeMap::new();
        for name in names(&module_words(src, module, 1)) {
            let room = match imports.get(&name) {
                _ if modules.contains(&name) => Some(&*name),
                Some(of_module) => of_module.as_deref(),
                None => Some(root),
            };
            if let Some(room) = room.filter(|room| room != module) {
                named.insert(room.to_owned(), name);
            }
        }
        (module.clone(), named)
    };
    let of_root = modules.iter().map(|module| (module.clone(), module.clone())).collect();
    modules.iter().map(of_module).chain([(root.to_owned(), of_root)]).collect()
}

/// The words of a module of this folder, which is `depth` modules below the root, and of the modules inside it.
fn module_words(folder: &Path, module: &str, depth: usize) -> Vec<String> {
    let mut all = from_root(&words(&read(&folder.join(format!("{module}.rs")))), depth);
    for inner in modules(&all) {
        all.extend(module_words(&folder.join(module), &inner, depth + 1));
    }
    all
}

/// The words of a module `depth` modules below the root, with `crate` for as many `super` as lead there.
fn from_root(words: &[String], depth: usize) -> Vec<String> {
    let mut rooted = Vec::new();
    let mut blocks = 0;
    // The blocks around each module that has no file of its own.
    let mut inline = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let supers = words[at..].chunks(2).take_while(|two| two[0] == "super").count();
        if supers > 0 && supers == depth + inline.len() {
            rooted.push("crate".to_owned());
            at += 2 * supers - 1;
            continue;
        }
        match &*words[at] {
            "{" => {
                if at >= 2 && words[at - 2] == "mod" {
                    inline.push(blocks);
                }
                blocks += 1;
            }
            "}" => {
                blocks -= 1;
                inline.pop_if(|around| *around == blocks);
            }
            _ => {}
        }
        rooted.push(words[at].clone());
        at += 1;
    }
    rooted
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
}

/// Modules that have a file of their own: `mod name;`.
fn modules(words: &[String]) -> BTreeSet<String> {
    let files = words.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
    files.map(|three| three[1].clone()).collect()
}

/// What the root has under its own name by `use`, with the module that has it: `use module::{Name, …};`; `None`
/// for a name of another crate.
fn imports(root: &[String], modules: &BTreeSet<String>) -> BTreeMap<String, Option<String>> {
    let mut imports = BTreeMap::new();
    for (at, _) in root.iter().enumerate().filter(|(_, word)| *word == "use") {
        let tree: Vec<_> = root[at + 1..].iter().take_while(|word| *word != ";").collect();
        let module = tree.iter().find(|word| modules.contains(**word));
        let ends = tree.iter().skip(1).map(|word| word.as_str()).chain([";"]);
        for (name, end) in tree.iter().zip(ends) {
            if [",", "}", ";"].contains(&end) && !MARKS.contains(&name.as_str()) {
                imports.insert((*name).clone(), module.map(|module| (*module).clone()));
            }
        }
    }
    imports
}

/// The first name of each path that begins with `crate`.
fn names(words: &[String]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for at in 2..words.len() {
        if words[at - 2] != "crate" || words[at - 1] != "::" {
            continue;
        }
        if words[at] != "{" {
            names.insert(words[at].clone());
            continue;
        }
        let mut depth = 0;
        for two in words[at..].windows(2) {
            match &*two[0] {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let begins = two[0] == "{" || two[0] == ",";
            match depth {
                0 => break,
                1 if begins && two[1] != "}" => drop(names.insert(two[1].clone())),
                _ => {}
            }
        }
    }
    names
}

/// The shortest circle, in words.
fn circle(rooms: &Rooms) -> Option<String> {
    let path = rooms.keys().filter_map(|room| way_back(rooms, room)).min_by_key(Vec::len)?;
    let edge = |two: &[&String]| match &rooms[two[0]][two[1]] {
        name if name == two[1] => format!("names `{name}`"),
        name => format!("names `{name}` of `{}`", two[1]),
    };
    let edges: Vec<String> = path.windows(2).map(edge).collect();
    Some(format!("`{}` {}", path[0], edges.join(", which ")))
}

/// The shortest way from a room back to itself.
fn way_back<'a>(rooms: &'a Rooms, start: &'a String) -> Option<Vec<&'a String>> {
    let mut queue = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(path) = queue.pop_front() {
        for next in rooms[path[path.len() - 1]].keys() {
            let longer = [path.as_slice(), &[next]].concat();
            if next == start {
                return Some(longer);
            }
            if seen.insert(next) {
                queue.push_back(longer);
            }
        }
    }
    None
}

/// Code as words and marks, without comments, text and what is only there for tests.
fn words(source: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let skipped = text_len(rest);
        if skipped > 0 {
            rest = &rest[skipped..];
        } else if word > 0 {
            words.push(rest[..word].to_owned());
            rest = &rest[word..];
        } else {
            let mark = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                words.push(rest[..mark].to_owned());
            }
            rest = &rest[mark..];
        }
    }
    without_tests(&words)
}

/// How long the comment, text or character is that code begins with; 0 if it begins with none.
fn text_len(code: &str) -> usize {
    let until = |begin: usize, end: &str| {
        code[begin..].find(end).map_or(code.len(), |at| begin + at + end.len())
    };
    if code.starts_with("//") {
        return until(2, "\n");
    }
    if code.starts_with("/*") {
        return until(2, "*/");
    }
    let raw = code.trim_start_matches(['b', 'c']);
    if let Some(hashed) = raw.strip_prefix('r').filter(|_| code.len() - raw.len() <= 1) {
        let text = hashed.trim_start_matches('#');
        if text.starts_with('"') {
            let hashes = hashed.len() - text.len();
            let begin = code.len() - text.len() + 1;
            return until(begin, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    let quote = code.chars().next().filter(|c| ['"', '\''].contains(c));
    let Some(quote) = quote else { return 0 };
    if quote == '\'' && !code[1..].starts_with('\\') && code.chars().nth(2) != Some('\'') {
        // A lifetime.
        return 1;
    }
    let mut escaped = false;
    for (at, c) in code.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Leaves out every item below `#[cfg(test)]`.
fn without_tests(words: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = words;
    while !rest.is_empty() {
        let is_test = |attribute: &[&str]| rest.iter().take(attribute.len()).eq(attribute.iter());
        if is_test(&["#", "[", "cfg", "(", "test", ")", "]"])
            || is_test(&["#", "[", "cfg", "(", "all", "(", "test"])
        {
            rest = &rest[item_len(rest)..];
        } else {
            kept.push(rest[0].clone());
            rest = &rest[1..];
        }
    }
    kept
}

/// Words of the item, with its attributes, that these begin with: it ends with a `;` or a block.
fn item_len(words: &[String]) -> usize {
    let mut depth = 0;
    for (at, word) in words.iter().enumerate() {
        match &**word {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (word == ";" || word == "}") {
            return at + 1;
        }
    }
    words.len()
}
