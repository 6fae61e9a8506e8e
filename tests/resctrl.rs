//! `linux.intelRdt` where the kernel has no resctrl; what is done with one is tested beside the code (`src/resctrl.rs`).

mod common;
use common::Bundle;
use serde_json::json;

#[test]
fn without_resctrl_it_is_an_error_before_anything_is_made() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(" resctrl "), "this test needs a machine without it");
    let bundle = Bundle::new().edit(|config| config["linux"]["intelRdt"] = json!({"closID": "a"}));
    let said = bundle.run().fails("intelRdt is specified in config, but Intel RDT is not enabled");
    assert!(said.contains("/linux/intelRdt"), "{said}");
    assert!(!bundle.state_dir().exists());
    let plan = common::outcome(bundle.command(&["plan", bundle.dir.to_str().expect("UTF-8")])).well();
    assert!(plan.contains("make or join resctrl group /a"), "{plan}");
}
