//! Recovery, replay, reads and inspect, over a log that was changed on its disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    loggos::sim::fuzz::recover_log(data);
});
