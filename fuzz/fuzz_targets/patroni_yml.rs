#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgvane_fuzz::patroni_yml(bytes));
