//! Build script of `forebay-sys`. The SPDK bindings will be made here, behind the feature `spdk`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
