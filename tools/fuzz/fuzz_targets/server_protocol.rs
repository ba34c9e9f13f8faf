//! A server against clients that may say anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    loggos::sim::fuzz::drive_server(data);
});
