//! Where the program begins: see `src/sys/first.rs`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo::rustc-link-arg-bin=orlop=-Wl,-e,orlop_entry");
        println!("cargo::rustc-link-arg-bin=orlop-shim=-Wl,-e,orlop_entry");
    }
}
