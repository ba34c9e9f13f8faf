//! The client's half of its protocol against a server that may say anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    loggos::sim::fuzz::drive_client(data);
});
