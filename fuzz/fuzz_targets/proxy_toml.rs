#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgvane_fuzz::proxy_toml(bytes));
