//! Links the image, and only the image, as a bare machine wants it.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=link.ld");
    for argument in [
        &format!("-Wl,--script={directory}/link.ld"),
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        // The precompiled `core` and `alloc` name the unwinder's entries. Nothing here unwinds.
        "-Wl,--defsym=rust_eh_personality=0",
        "-Wl,--defsym=_Unwind_Resume=0",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
