//! A bounded queue from one thread to another, without locks.
//!
//! Used by [`super::handover`]. Guarantee: what is pushed is popped once, whole and in order; a full
//! queue gives the value back.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A counter on a cache line of its own: the two ends do not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicUsize);

struct Shared<T> {
    /// A power of two of them; the `n`th value ever pushed is in place `n` modulo their number.
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Values ever popped. Only the receiver writes it.
    popped: Counter,
    /// Values ever pushed. Only the sender writes it.
    pushed: Counter,
}

// SAFETY: a place is touched by one thread at a time. The sender writes the places from `popped`
// plus the capacity on, which it has seen the receiver leave; the receiver reads those below
// `pushed`, which it has seen the sender fill (each side's store is a release, the other's load an
// acquire). So values move from thread to thread, which `T: Send` permits.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; it owns its values.
unsafe impl<T: Send> Send for Shared<T> {}

/// The end that pushes. There is one.
pub(super) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that pops. There is one.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// A queue for `capacity` values.
///
/// # Panics
/// When `capacity` is no power of two.
pub(super) fn queue<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity.is_power_of_two(), "a queue of {capacity}");
    let places = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let (popped, pushed) = (Counter::default(), Counter::default());
    let shared = Arc::new(Shared { places, popped, pushed });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

impl<T> Shared<T> {
    fn place(&self, number: usize) -> *mut MaybeUninit<T> {
        self.places[number & (self.places.len() - 1)].get()
    }
}

impl<T: Send> Sender<T> {
    /// Adds `value` to the end, or gives it back when there is no room.
    pub(super) fn push(&mut self, value: T) -> Result<(), T> {
        let shared = &self.shared;
        let pushed = shared.pushed.0.load(Ordering::Relaxed);
        let popped = shared.popped.0.load(Ordering::Acquire);
        if pushed.wrapping_sub(popped) >= shared.places.len() {
            return Err(value);
        }
        // SAFETY: the receiver has left this place (the acquire above) and does not look at it
        // before the store below; there is no other sender (`&mut self`, not cloned).
        unsafe { (*shared.place(pushed)).write(value) };
        shared.pushed.0.store(pushed.wrapping_add(1), Ordering::Release);
        Ok(())
    }
}

impl<T: Send> Receiver<T> {
    /// Whether there is nothing to pop at the moment.
    pub(super) fn is_empty(&self) -> bool {
        let popped = self.shared.popped.0.load(Ordering::Relaxed);
        popped == self.shared.pushed.0.load(Ordering::Acquire)
    }

    /// Takes the first value.
    pub(super) fn pop(&mut self) -> Option<T> {
        let shared = &self.shared;
        let popped = shared.popped.0.load(Ordering::Relaxed);
        if popped == shared.pushed.0.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the sender has filled this place (the acquire above) and does not touch it again
        // before the store below; there is no other receiver (`&mut self`, not cloned), and the
        // store makes sure that the value is read out once.
        let value = unsafe { (*shared.place(popped)).assume_init_read() };
        shared.popped.0.store(popped.wrapping_add(1), Ordering::Release);
        Some(value)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (mut number, end) = (*self.popped.0.get_mut(), *self.pushed.0.get_mut());
        while number != end {
            // SAFETY: pushed and never popped, and both ends are gone.
            unsafe { (*self.place(number)).assume_init_drop() };
            number = number.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn it_is_a_bounded_queue(pushes in proptest::collection::vec(any::<bool>(), 0..400)) {
            let (mut sender, mut receiver) = queue(8);
            let mut model = VecDeque::new();
            // Values that own memory: a leak or a double drop shows under a sanitizer, and in the
            // counts below.
            let token = Arc::new(());
            for (number, is_push) in pushes.into_iter().enumerate() {
                if is_push {
                    let pushed = sender.push((number, token.clone()));
                    prop_assert_eq!(pushed.is_ok(), model.len() < 8);
                    if pushed.is_ok() {
                        model.push_back(number);
                    }
                } else {
                    prop_assert_eq!(receiver.pop().map(|(number, _)| number), model.pop_front());
                }
                prop_assert_eq!(receiver.is_empty(), model.is_empty());
                prop_assert_eq!(Arc::strong_count(&token), 1 + model.len());
            }
            drop((sender, receiver));
            prop_assert_eq!(Arc::strong_count(&token), 1);
        }
    }

    #[test]
    fn two_threads_hand_everything_over_in_order() {
        const COUNT: u64 = 100_000;
        let (mut sender, mut receiver) = queue(16);
        let pusher = std::thread::spawn(move || {
            for number in 0..COUNT {
                let mut value = Box::new([number; 5]);
                while let Err(back) = sender.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match receiver.pop() {
                Some(value) => {
                    assert_eq!(*value, [expected; 5]);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        pusher.join().unwrap();
        assert!(receiver.is_empty());
    }
}
