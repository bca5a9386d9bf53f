//! New migrations must be embedded: cargo does not see them by itself.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
