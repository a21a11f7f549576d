//! The rules of the code, as tests: sizes, comments, layers, names, and documents that hold.
//!
//! A rule is a function from a file to its faults, so that each can be shown to find one (`rules`,
//! at the end). What is in the way of a rule is mended by taking things apart where they come
//! apart, never by an exception here.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, without its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of half the files, without tests.
const FILE_LINES_MEDIAN_MAX: usize = 150;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;
/// Lines of comment in a hundred lines of production code.
const COMMENTS_PERCENT: std::ops::RangeInclusive<usize> = 10..=20;

/// Which modules of the crate each layer may name; what is not listed here may name any.
const LAYERS: [(&str, &[&str]); 15] = [
    ("protocol", &[]),
    ("edge", &["protocol"]),
    ("hub", &["protocol"]),
    ("auth", &["protocol"]),
    ("limits", &["protocol"]),
    ("store", &["protocol", "telemetry"]),
    ("directory", &["protocol", "telemetry"]),
    ("bus", &["protocol", "telemetry", "directory"]),
    ("board", &["protocol", "store"]),
    ("chat", &["protocol", "limits", "hub", "store", "directory", "bus", "board", "telemetry"]),
    ("gateway", &["protocol", "edge", "auth", "limits", "hub", "chat", "store", "telemetry"]),
    ("client", &["protocol", "edge"]),
    ("bench", &["protocol", "auth", "client", "config"]),
    ("checker", &[]),
    ("torture", &["protocol", "client", "checker", "bench"]),
];

/// The modules that every layer may name: the switch of planted bugs, the seam for chance, slots.
const ANYWHERE: [&str; 3] = ["planted", "chance", "slab"];

/// Libraries that only some files may name.
const LIBRARIES: [(&str, &[&str]); 6] = [
    (
        "redis",
        &[
            "src/directory/redis.rs",
            "src/directory/convoy.rs",
            "src/directory/link.rs",
            "src/directory/trouble.rs",
            "src/bus/redis.rs",
        ],
    ),
    ("aws_sdk_dynamodb", &["src/store/dynamodb/", "src/board/dynamodb.rs"]),
    ("aws_config", &["src/store/dynamodb/"]),
    ("aws_credential_types", &["src/store/dynamodb/"]),
    ("aws_smithy_http_client", &["src/store/dynamodb/"]),
    ("rusqlite", &["src/store/embedded/"]),
];

const PORTS: [&str; 4] = ["store", "directory", "bus", "board"];
const ADAPTERS: [&str; 4] = ["embedded", "memory", "redis", "dynamodb"];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 11] = [
    "utils", "util", "common", "helpers", "helper", "ports", "adapters", "domain", "manager",
    "misc", "shared",
];

// -------------------------------------------------------------------------------------- sources

/// A Rust file.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
    /// It is compiled for tests alone.
    test: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let test = ["tests/", "benches/"].iter().any(|folder| path.starts_with(folder))
            || text.lines().any(|line| line == "#![cfg(test)]");
        Self { path: path.to_owned(), text: text.to_owned(), test }
    }

    /// The numbered lines that go into the binary.
    fn production(&self) -> Vec<(usize, &str)> {
        let mut lines = (1..).zip(self.text.lines());
        let mut production = Vec::new();
        while !self.test
            && let Some((number, line)) = lines.next()
        {
            if line.trim_start() != "#[cfg(test)]" {
                production.push((number, line));
                continue;
            }
            // What is for tests alone ends with a brace as far in as its attribute.
            let indent = &line[..line.len() - line.trim_start().len()];
            let on_one_line = |line: &str| line.ends_with([';', '}']);
            if lines.next().is_some_and(|(_, line)| !on_one_line(line)) {
                while lines.next().is_some_and(|(_, line)| !ends_item(line, indent)) {}
            }
        }
        production
    }

    /// The same without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.production().into_iter().filter(|(_, line)| !is_comment(line));
        lines.map(|(number, line)| (number, line.split(" // ").next().unwrap_or(line)))
    }

    /// The module of the crate that it belongs to: the folder below `src`.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        path.split(['/', '.']).next()
    }

    fn fault(&self, line: usize, what: impl Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Relies on the layout of `cargo fmt`.
fn ends_item(line: &str, indent: &str) -> bool {
    line.strip_prefix(indent).is_some_and(|rest| rest.starts_with('}'))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Every Rust file of the package.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        walk(&root().join(folder), &mut paths);
    }
    paths.sort();
    let mut sources: Vec<Source> = paths.iter().map(|path| read_source(path)).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let path = source.path.trim_end_matches(".rs");
        source.test |= tests.iter().any(|t| path == t || path.starts_with(&format!("{t}/")));
    }
    assert!(sources.len() > 100, "the sources were not found");
    sources
}

/// The files or folders of modules that are for tests alone, by where they are declared or by what
/// they say of themselves.
fn test_modules(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let folder = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    let name = |line: &str| Some(line.split("mod ").nth(1)?.strip_suffix(';')?.to_owned());
    let below = declared.filter_map(|pair| name(pair[1])).map(|name| format!("{folder}/{name}"));
    below.chain(source.test.then(|| folder.to_owned())).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read_source(path: &Path) -> Source {
    let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
    Source::new(&name, &fs::read_to_string(path).unwrap())
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails with all faults that a rule finds.
fn hold(rule: fn(&Source) -> Vec<String>) {
    none(sources().iter().flat_map(rule).collect());
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// ---------------------------------------------------------------------------------------- sizes

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.production().len();
    let fault = || source.fault(lines, format!("{lines} lines, more than {FILE_LINES_MAX}"));
    (lines > FILE_LINES_MAX).then(fault).into_iter().collect()
}

fn too_wide(source: &Source) -> Vec<String> {
    let lines = (1..).zip(source.text.lines());
    let wide = lines.map(|(number, line)| (number, line.chars().count()));
    let wide = wide.filter(|(_, columns)| *columns > COLUMNS_MAX);
    wide.map(|(number, columns)| source.fault(number, format!("{columns} columns"))).collect()
}

fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let one_line = line.ends_with(['}', ';']);
        let length =
            lines[start..].iter().position(|line| ends_item(line, indent)).map_or(1, |end| end + 1);
        if !one_line && length > FUNCTION_LINES_MAX {
            faults.push(source.fault(start + 1, format!("a function of {length} lines")));
        }
    }
    faults
}

fn starts_function(line: &str) -> bool {
    let words = line.trim_start().split(' ');
    let visible = |word: &&str| word.starts_with("pub") || word.ends_with(')');
    let mut words = words.skip_while(|word| visible(word) || ["const", "async"].contains(word));
    words.next() == Some("fn")
}

fn median(mut lengths: Vec<usize>) -> usize {
    lengths.sort_unstable();
    lengths[lengths.len() / 2]
}

/// Comments in a hundred lines that are not empty.
fn comments_percent<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    let (mut comments, mut all) = (0, 0);
    for line in lines.filter(|line| !line.trim().is_empty()) {
        comments += usize::from(is_comment(line));
        all += 1;
    }
    comments * 100 / all
}

#[test]
fn files_are_short_enough_to_be_read() {
    hold(too_long);
    let all = sources();
    let lengths = all.iter().map(|s| s.production().len()).filter(|lines| *lines > 0);
    let lengths: Vec<usize> = lengths.collect();
    let median = median(lengths);
    assert!(median <= FILE_LINES_MEDIAN_MAX, "half the files have {median} lines and more");
}

#[test]
fn functions_and_lines_fit_a_screen() {
    hold(long_functions);
    hold(too_wide);
}

#[test]
fn comments_are_neither_missing_nor_everywhere() {
    let all = sources();
    let percent = comments_percent(all.iter().flat_map(Source::production).map(|(_, line)| line));
    assert!(COMMENTS_PERCENT.contains(&percent), "{percent} % of the lines are comments");
}

// ---------------------------------------------------------------------------------------- words

fn no_module_doc(source: &Source) -> Vec<String> {
    let fault = || source.fault(1, "does not begin with //! and what the module is for");
    (!source.text.starts_with("//! ")).then(fault).into_iter().collect()
}

fn unwraps(source: &Source) -> Vec<String> {
    let words = [".unwrap()", ".expect(", ".unwrap_err()", "panic!(", "todo!(", "unimplemented!("];
    let found = source.code().flat_map(|(number, line)| {
        let word = words.iter().find(|word| line.contains(**word));
        word.map(|word| source.fault(number, format!("{word} in production code")))
    });
    found.collect()
}

fn empty_names(source: &Source) -> Vec<String> {
    let mut parts = source.path.split(['/', '.']);
    let empty = parts.find(|part| EMPTY_NAMES.contains(part));
    empty.map(|name| source.fault(1, format!("`{name}` says nothing"))).into_iter().collect()
}

#[test]
fn every_module_says_what_it_is_for() {
    hold(no_module_doc);
}

#[test]
fn production_code_answers_and_does_not_panic() {
    hold(unwraps);
}

#[test]
fn names_say_what_is_inside() {
    hold(empty_names);
}

// --------------------------------------------------------------------------------------- layers

/// The words that stand behind `prefix` where that is a path of its own, as in `crate::WORD`.
fn named<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = line.match_indices(prefix).filter(|(at, _)| {
        !line[..*at].ends_with(|c: char| is_word(c) || c == ':' || c == '"' || c == '/')
    });
    let rest = starts.map(|(at, _)| &line[at + prefix.len()..]);
    rest.map(|rest| &rest[..rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())]).collect()
}

fn crossed_layers(source: &Source) -> Vec<String> {
    let Some((own, allowed)) = LAYERS.iter().find(|(layer, _)| source.module() == Some(*layer))
    else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    for (number, line) in source.code() {
        for word in named(line, "crate::") {
            if word != *own && !ANYWHERE.contains(&word) && !allowed.contains(&word) {
                faults.push(source.fault(number, format!("{own} names crate::{word}")));
            }
        }
    }
    faults
}

fn strayed_libraries(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for (library, places) in LIBRARIES {
        if source.test || places.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (number, _) in source.code().filter(|(_, l)| !named(l, &path_of(library)).is_empty()) {
            faults.push(source.fault(number, format!("{library} is not for this file")));
        }
    }
    faults
}

fn path_of(library: &str) -> String {
    format!("{library}::")
}

fn named_adapters(source: &Source) -> Vec<String> {
    let module = source.module().unwrap_or_default();
    if source.path == "src/wiring.rs" || PORTS.contains(&module) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in source.code() {
        let paths = PORTS.iter().flat_map(|p| ADAPTERS.iter().map(move |a| format!("{p}::{a}")));
        if let Some(path) = paths.into_iter().find(|path| line.contains(path)) {
            faults.push(source.fault(number, format!("{path} is for wiring.rs alone")));
        }
    }
    faults
}

#[test]
fn layers_name_only_what_lies_below_them() {
    hold(crossed_layers);
}

#[test]
fn libraries_stay_in_their_adapters() {
    hold(strayed_libraries);
}

#[test]
fn only_the_wiring_names_adapters() {
    hold(named_adapters);
}

// ------------------------------------------------------------------------------------ documents

/// The keys of `[dependencies]` and `[dev-dependencies]`.
fn direct_dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let (true, Some((name, _))) = (inside, line.split_once(" = ")) {
            names.insert(name);
        }
    }
    names
}

/// The first column of a table whose rows begin with a name in backticks.
fn listed(document: &str) -> BTreeSet<&str> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).collect()
}

/// What a document names in backticks or links to, and is not there.
fn dead_references(document: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let quoted = document.split('`').skip(1).step_by(2);
    let linked = document.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local = linked.filter(|link| !link.is_empty() && !link.contains("://"));
    let named = quoted.filter(|quoted| is_reference(quoted)).chain(local);
    named.filter(|name| !is_there(name)).map(str::to_owned).collect()
}

/// `chat/lane.rs`, `tests/it`, `docs/`, `chat::lane`.
fn is_reference(quoted: &str) -> bool {
    let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "_./:-".contains(c));
    let file = [".rs", ".toml", ".md", "/"].iter().any(|end| quoted.ends_with(end));
    let test = quoted.starts_with("tests/");
    let module = quoted.split_once("::").is_some_and(|(first, _)| is_module(first));
    plain && (file || test || module) && !quoted.starts_with('/')
}

fn is_module(name: &str) -> bool {
    let src = root().join("src");
    src.join(name).is_dir() || src.join(format!("{name}.rs")).is_file()
}

/// A path from the root or from `src`, or a module without its ending.
fn is_there(name: &str) -> bool {
    let path = name.replace("::", "/");
    let places = [path.clone(), format!("{path}.rs"), format!("src/{path}")];
    places.iter().any(|place| root().join(place).exists()) || is_module(&path)
}

#[test]
fn every_dependency_has_its_reason() {
    let (manifest, document) = (read("Cargo.toml"), read("docs/dependencies.md"));
    assert_eq!(direct_dependencies(&manifest), listed(&document));
}

#[test]
fn documents_name_what_is_there() {
    let root = ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "SECURITY.md"];
    for name in root.into_iter().chain(["docs/threat-model.md", "docs/deploy.md"]) {
        // Links of a page in `docs` begin there.
        let dead = dead_references(&read(name), |name| {
            is_there(name) || is_there(&format!("docs/{name}"))
        });
        assert!(dead.is_empty(), "{name} names what is not there: {dead:?}");
    }
}

// ----------------------------------------------------------------------------- the threat model

/// The last cells of the tables whose last column is called `test`.
fn test_cells(document: &str) -> Vec<&str> {
    let mut inside = false;
    let mut cells = Vec::new();
    for line in document.lines() {
        let last = || line.trim_end_matches('|').rsplit('|').next().map_or("", str::trim);
        if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("|---") {
            cells.push(last());
        } else {
            inside |= last() == "test";
        }
    }
    cells
}

/// What a cell names and is no place with a test, of every cell that names one; and those that
/// name none.
fn unproven(cells: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for cell in cells {
        // Names in backticks, each with what stands behind it.
        let parts: Vec<&str> = cell.split('`').skip(1).collect();
        let named = parts.chunks(2).map(|two| (two[0], two.get(1).copied().unwrap_or("")));
        let lacking = named.flat_map(|(name, behind)| match name.split_once(' ') {
            Some(("fuzz/run", targets)) => targets.split(' ').filter_map(no_target).collect(),
            _ if name == "tests/corpus" => behind.split([',', ' ']).filter_map(no_row).collect(),
            _ => Vec::from_iter((!holds_test(name)).then(|| name.to_owned())),
        });
        faults.extend(lacking);
        faults.extend(parts.is_empty().then(|| format!("no test is named: {cell:?}")));
    }
    faults
}

/// A fuzz target that is not there, or has nothing to begin with.
fn no_target(name: &str) -> Option<String> {
    let there = root().join(format!("fuzz/targets/{name}.rs")).is_file()
        && fs::read_dir(root().join("fuzz/corpus").join(name)).is_ok_and(|all| all.count() > 0);
    (!there).then(|| format!("fuzz/run {name}"))
}

/// A row of the corpus, or a group of rows, that the table has not.
fn no_row(word: &str) -> Option<String> {
    let group = word.chars().next().filter(char::is_ascii_uppercase)?;
    let number = &word[group.len_utf8()..];
    let start = if number.is_empty() { format!("\"{word}") } else { format!("\"{word}\"") };
    let mut tables = Vec::new();
    walk(&root().join("tests/corpus/table"), &mut tables);
    let there = tables.iter().any(|table| read_source(table).text.contains(&start));
    (!there).then(|| format!("tests/corpus {word}"))
}

/// Whether a file, folder or module holds a test, itself or below.
fn holds_test(name: &str) -> bool {
    let path = name.replace("::", "/").trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
    let place = root().join(match path.split('/').next() {
        Some("tests") => path,
        Some("it") => format!("tests/{path}"),
        _ => format!("src/{path}"),
    });
    let mut files = vec![place.with_extension("rs")];
    walk(&place, &mut files);
    let rust = files.iter().filter(|file| file.is_file()).any(|file| {
        let text = read_source(file).text;
        text.lines().any(|line| {
            let line = line.trim_start();
            ["#[test]", "#[tokio::test", "on_both!"].iter().any(|mark| line.starts_with(mark))
        })
    });
    // The page's are no Rust.
    let mut others = fs::read_dir(&place).into_iter().flatten().map(|entry| entry.unwrap().path());
    rust || others.any(|file| {
        file.extension().is_some_and(|extension| extension == "mjs")
            && fs::read_to_string(&file).unwrap().contains("assert.")
    })
}

#[test]
fn every_threat_has_a_test_that_is_there() {
    let document = read("docs/threat-model.md");
    let cells = test_cells(&document);
    assert!(cells.len() > 30, "the tables were not found: {cells:?}");
    let faults = unproven(&cells);
    assert!(faults.is_empty(), "docs/threat-model.md names tests that are not there: {faults:?}");
}

// ---------------------------------------------------------------------------------------- rules

/// Each rule finds what it is there for, and leaves alone what is right.
#[cfg(test)]
mod rules {
    use super::*;

    #[track_caller]
    fn finds(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, count: usize) {
        let found = rule(&Source::new(path, text));
        assert_eq!(found.len(), count, "{found:?}");
    }

    fn lines(count: usize) -> String {
        "let x = 1;\n".repeat(count)
    }

    #[test]
    fn of_size() {
        let tests = "#[cfg(test)]\nmod tests {\n";
        finds(too_long, "src/a.rs", &lines(401), 1);
        finds(too_long, "src/a.rs", &lines(400), 0);
        finds(too_long, "src/a.rs", &format!("{}{tests}{}", lines(400), lines(9)), 0);
        finds(too_long, "src/a.rs", &format!("#[cfg(test)]\nmod tests;\n{}", lines(401)), 1);
        finds(too_long, "tests/a.rs", &lines(401), 0);
        finds(too_wide, "tests/a.rs", &"é".repeat(100), 0);
        finds(too_wide, "tests/a.rs", &"é".repeat(101), 1);
        let function = |head: &str, body| format!("    {head}f() {{\n{}    }}\n}}\n", lines(body));
        finds(long_functions, "src/a.rs", &function("fn ", 68), 0);
        for head in ["fn ", "pub fn ", "pub(super) const fn ", "pub(in crate::a) async fn "] {
            finds(long_functions, "src/a.rs", &function(head, 69), 1);
        }
        assert_eq!(median(vec![9, 1, 5]), 5);
    }

    #[test]
    fn of_words() {
        finds(no_module_doc, "src/a.rs", "use a;\n//! late", 1);
        finds(no_module_doc, "src/a.rs", "//! What it is for.", 0);
        finds(unwraps, "src/a.rs", "a.unwrap();\nb.expect(\"c\");\npanic!(\"d\");", 3);
        finds(unwraps, "src/a.rs", "// a.unwrap()\na.unwrap_or(b);", 0);
        finds(unwraps, "src/a.rs", "#[cfg(test)]\nmod tests {\n    a.unwrap();", 0);
        finds(unwraps, "src/a.rs", "#[cfg(test)]\nfn f() {\n    a.unwrap();\n}\nb.unwrap();", 1);
        finds(unwraps, "src/a.rs", "#[cfg(test)]\nmod tests;\n\na.unwrap();", 1);
        finds(empty_names, "src/utils/a.rs", "", 1);
        finds(empty_names, "src/chat/manager.rs", "", 1);
        finds(empty_names, "src/chat/common_sense.rs", "", 0);
        assert_eq!(comments_percent("// a\n\n  /// b\nc\nd // e\n".lines()), 50);
    }

    #[test]
    fn of_layers() {
        finds(crossed_layers, "src/protocol/a.rs", "use crate::hub::Hub;", 1);
        finds(crossed_layers, "src/protocol/a.rs", "use crate::protocol::Seq;", 0);
        finds(crossed_layers, "src/hub/a.rs", "let c: crate::chat::C = crate::api::d();", 2);
        finds(crossed_layers, "src/chat/a.rs", "use crate::gateway::Gateway;", 1);
        finds(crossed_layers, "src/chat/a.rs", "use crate::{bus, hub};", 1);
        finds(crossed_layers, "src/bench/a.rs", "use crate::chat::Chat;", 1);
        finds(crossed_layers, "src/node.rs", "use crate::gateway::Gateway;", 0);
        finds(strayed_libraries, "src/chat/a.rs", "use redis::Cmd;\nlet x = redis::cmd();", 2);
        finds(strayed_libraries, "src/chat/a.rs", "let url = \"redis://\"; // redis::Cmd", 0);
        finds(strayed_libraries, "src/wiring.rs", "use crate::bus::redis::RedisBus;", 0);
        finds(strayed_libraries, "src/bus/redis.rs", "use redis::Cmd;", 0);
        finds(strayed_libraries, "src/bus/mod.rs", "use aws_sdk_dynamodb::Client;", 1);
        finds(named_adapters, "src/node.rs", "use crate::bus::redis::RedisBus;", 1);
        finds(named_adapters, "src/wiring.rs", "use crate::bus::redis::RedisBus;", 0);
    }

    #[test]
    fn of_documents() {
        let manifest =
            "[dependencies]\na = \"1\"\nb-c = { version = \"2\" }\n[profile.dev]\nd = 1\n";
        assert_eq!(direct_dependencies(manifest), BTreeSet::from(["a", "b-c"]));
        assert_eq!(listed("| crate | why |\n| `a` | `b` |\n"), BTreeSet::from(["a"]));
        let document = "`no/such.rs`, `chat::nobody`, `tests/gone` and [a page](docs/gone.md#part) \
                        beside `lib.rs`, `chat::lane`, `a.b()` and [one](https://example.org/)";
        let dead = dead_references(document, is_there);
        assert_eq!(dead, ["no/such.rs", "chat::nobody", "tests/gone", "docs/gone.md"]);
    }

    #[test]
    fn of_threats() {
        let document = "| a | defence |\n|---|---|\n| x | `y` |\n\n\
                        | attack | test |\n|---|---|\n| x | `y`, `z` A1 |\n| b | none |\n";
        assert_eq!(test_cells(document), ["`y`, `z` A1", "none"]);
        let good = "`it::auth::matrix`, `chat::openings`, `limits/meter.rs`, `balancer/mod.rs`, \
                    `tests/browser`, `tests/corpus` A12, B and G6, `fuzz/run frame token`";
        assert_eq!(unproven(&[good]), [""; 0]);
        // There, and without a test.
        let bad = "`roles/entrance.rs`, `it::nobody`, `tests/corpus` A99, Z, `fuzz/run gone`";
        let lacking = [
            "roles/entrance.rs",
            "it::nobody",
            "tests/corpus A99",
            "tests/corpus Z",
            "fuzz/run gone",
        ];
        assert_eq!(unproven(&[bad]), lacking);
        assert_eq!(unproven(&["by hand"]).len(), 1);
    }
}
