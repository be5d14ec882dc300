//! The migrator is embedded: a new file must rebuild it.
fn main() {
    println!("cargo:rerun-if-changed=sql");
}
