//! Documents that are made from the source: they can't drift. `UPDATE_DOCS=1 cargo test --test docs` writes them anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const HEAD: &str = "# Operations

What a plan is made of, in the words of `src/plan/op.rs`; `orlop plan BUNDLE` prints which of them a bundle needs. Made by
`UPDATE_DOCS=1 cargo test --test docs`.

| operation | what it does |
|---|---|
";

/// Each variant of `pub enum Op` with its description.
fn operations(source: &str) -> Vec<(String, String)> {
    let start = source.find("pub enum Op {").expect("the enum");
    let body = &source[start..start + source[start..].find("\n}").expect("its end")];
    let mut found = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for line in body.lines().skip(1) {
        if let Some(text) = line.strip_prefix("    /// ") {
            words.push(text);
        } else if line.starts_with("    ") && !line.starts_with("     ") && !words.is_empty() {
            let name = line.trim().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            found.push((name.to_owned(), words.join(" ")));
            words.clear();
        }
    }
    found
}

#[test]
fn operations_md_is_what_the_source_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = operations(&fs::read_to_string(root.join("src/plan/op.rs")).expect("op.rs"));
    assert!(found.len() > 40, "{} operations", found.len());
    let mut page = HEAD.to_owned();
    for (name, what) in found {
        writeln!(
            page,
            "| `{name}` | {} |",
            what.replace('|', "\\|").replace("[`Op::", "[`").replace("[`", "`").replace("`]", "`")
        )
        .expect("write");
    }
    let path = root.join("docs/operations.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("write operations.md");
    }
    assert_eq!(fs::read_to_string(path).expect("operations.md"), page, "run UPDATE_DOCS=1 cargo test --test docs");
}

/// What stands in the blocks of a page in one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split(&format!("```{language}\n")).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).expect(name)
}

/// Runs the `sh` blocks of a page as one script: what it writes.
fn run(page: &str, calls: usize) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = blocks(page, "sh").concat();
    assert!(script.matches("orlop ").count() + script.matches("orlop-shim ").count() >= calls, "{script}");
    let binaries = Path::new(env!("CARGO_BIN_EXE_orlop")).parent().expect("a directory").to_owned();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
    // /run may be the machine's own: the state of this test lies elsewhere.
    let script = format!(
        "orlop() {{ command orlop --root \"$STATE\" \"$@\"; }}\n\
         orlop_shim() {{ test \"$1\" != run || set -- \"$@\" --root \"$STATE\"; command orlop-shim --directory \"$STATE.shims\" \"$@\"; }}\n{}",
        script.replace("orlop-shim ", "orlop_shim ").replace("/run/orlop-shim/", "\"$STATE\".shims/")
    );
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let state = std::env::temp_dir().join(format!("orlop-test-docs-{}-{number}", std::process::id()));
    fs::create_dir_all(&state).expect("a directory for the state");
    let output = std::process::Command::new("sh")
        .args(["-euc", &script])
        .current_dir(root)
        .env("PATH", path)
        .env("STATE", &state)
        .output()
        .expect("sh");
    fs::remove_dir_all(&state).expect("remove the state");
    let _ = fs::remove_dir_all(state.with_extension("shims"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn the_commands_of_check_md_say_what_it_shows() {
    let page = page("check.md");
    // what a run that failed has left
    let _ = fs::remove_dir_all("/tmp/orlop-faulty");
    let said = run(&page, 3);
    let shown = blocks(&page, "text");
    assert_eq!(shown.len(), 2);
    for text in shown {
        assert!(said.contains(text), "{text} is not in {said}");
    }
}

#[test]
fn the_commands_of_seccomp_md_say_what_it_shows() {
    let page = page("seccomp.md");
    let said = run(&page, 6);
    let shown = blocks(&page, "text");
    assert_eq!(shown.len(), 4);
    for text in shown {
        assert!(said.contains(text), "{text} is not in {said}");
    }
    assert!(said.contains("Hello from a container"), "{said}");
}

#[test]
fn the_commands_of_audit_md_say_what_it_shows() {
    let page = page("audit.md");
    let _ = fs::remove_dir_all("/tmp/orlop-open");
    let said = run(&page, 5);
    let shown = blocks(&page, "text");
    assert_eq!(shown.len(), 1);
    assert!(said.contains(shown[0]), "{} is not in {said}", shown[0]);
    assert!(said.contains("\"container\": \"audited\""), "{said}");
}

#[test]
fn the_commands_of_running_md_do_what_it_says() {
    let said = run(&page("running.md"), 6);
    for words in ["execve \"/bin/sh\" \"/hello\"", "Hello from a container", "\"status\": \"created\""] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn the_commands_of_hardening_md_say_what_it_shows() {
    let page = page("hardening.md");
    let _ = fs::remove_dir_all("/tmp/orlop-hard");
    let said = run(&page, 4);
    let shown = blocks(&page, "text");
    assert_eq!(shown.len(), 1);
    assert!(said.contains(shown[0]), "{} is not in {said}", shown[0]);
}

#[test]
fn the_commands_of_supervisor_md_say_what_it_shows() {
    let page = page("shim/supervisor.md");
    let _ = fs::remove_dir_all("/tmp/orlop-watched");
    let said = run(&page, 5);
    let shown = blocks(&page, "text");
    assert_eq!(shown.len(), 1);
    for text in [shown[0], "healthy ok", "serving"] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
}

/// The tables of a TOML text, each as its heading with the lines below it.
fn tables(text: &str) -> Vec<String> {
    text.split("\n[").map(|table| table.trim().trim_start_matches('[').to_owned()).collect()
}

/// What the tests give to containerd is containerd.md's: what kubernetes.md shows of it is the same.
#[test]
fn kubernetes_md_shows_what_containerd_md_has() {
    let (whole, part) = (page("engines/containerd.md"), page("cluster/kubernetes.md"));
    let whole = tables(blocks(&whole, "toml")[0]);
    let part = blocks(&part, "toml");
    assert_eq!(part.len(), 1);
    let part = tables(part[0]);
    assert_eq!(part.len(), 4);
    for table in part {
        assert!(whole.contains(&table), "{table} is not in {whole:#?}");
    }
}

/// No kubelet runs here, so nobody else reads the class.
#[test]
fn the_runtime_class_names_a_runtime_of_the_configuration_beside_it() {
    let page = page("engines/containerd.md");
    let class = blocks(&page, "yaml");
    assert_eq!(class.len(), 1);
    let value = |key: &str| class[0].lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    assert_eq!((value("apiVersion"), value("kind")), (Some("node.k8s.io/v1"), Some("RuntimeClass")));
    let name = value("  name").expect("metadata.name");
    assert!(page.contains(&format!("`runtimeClassName: {name}`")), "a pod asks for another class than {name}");
    let handler = value("handler").expect("a handler");
    let heading = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{handler}]");
    let tables = tables(blocks(&page, "toml")[0]);
    assert!(tables.iter().any(|table| table.starts_with(&heading)), "no {heading} in {tables:#?}");
}

#[test]
fn links_between_pages_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = ["", "docs", "docs/cluster", "docs/decisions", "docs/engines", "docs/shim", "seccomp-profiles"];
    let files = directories.iter().flat_map(|directory| fs::read_dir(root.join(directory)).expect(directory));
    let pages: Vec<_> =
        files.map(|file| file.expect("a file").path()).filter(|path| path.extension() == Some("md".as_ref())).collect();
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            assert!(page.with_file_name(target).exists(), "{}: {target}", page.display());
        }
    }
}

/// A table of a page, as it stands between its marks; written anew where that is asked for.
fn generated(name: &str, table: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let page = fs::read_to_string(&path).expect(name);
    let mark = format!("<!-- table: {table} -->\n");
    let start = page.find(&mark).expect("the table's mark") + mark.len();
    let end = start + page[start..].find("<!-- end -->").expect("the table's end");
    let wanted = format!("{}\n{text}\n{}", &page[..start], &page[end..]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).expect("write the page");
    } else {
        assert_eq!(page, wanted, "run UPDATE_DOCS=1 cargo test --test docs");
    }
}

#[test]
fn the_tables_of_outputs_md_are_what_the_source_says() {
    use orlop::shim::{client, health::Reason, metrics};
    let page = "shim/outputs.md";
    let mut words = "| | `/livez` | `/readyz` | `ocf` | `nagios` | `lsb` | `bool` | `haproxy` | gRPC |\n|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for [name, rest @ .., haproxy, grpc] in client::words() {
        writeln!(words, "| {name} | {} | `{haproxy}` | {grpc} |", rest.join(" | ")).expect("write");
    }
    generated(page, "words", &words);
    let reasons = Reason::ALL.map(|reason| format!("`{reason}`")).join(", ");
    generated(page, "reasons", &format!("{reasons}\n"));
    let mut families = "| metric | type | what | from |\n|---|---|---|---|\n".to_owned();
    for family in metrics::FAMILIES {
        let (name, end, what) = (family.name, family.kind.suffix(), family.help);
        let from = family.file().map(|file| format!("`{file}`")).unwrap_or_default();
        writeln!(families, "| `{name}{end}` | {} | {what} | {from} |", family.kind.word()).expect("write");
    }
    generated(page, "metrics", &families);
}

#[test]
fn the_commands_of_outputs_md_say_what_it_shows() {
    let page = page("shim/outputs.md");
    let _ = fs::remove_dir_all("/tmp/orlop-told");
    let said = run(&page, 3);
    for text in &blocks(&page, "text")[..2] {
        assert!(said.contains(text), "{text} is not in {said}");
    }
}
