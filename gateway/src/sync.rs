//! Locks, atomics and swappable pointers for state that several threads change. In the product these are the types of
//! `parking_lot`, `arc_swap` and `std`, unchanged. In this crate's unit tests they are the same with one addition: inside
//! [`explore`] every access is a point at which shuttle may run another thread first.

pub use std::sync::atomic::Ordering;
#[cfg(not(test))]
pub use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(not(test))]
pub use arc_swap::ArcSwap;
#[cfg(not(test))]
pub use parking_lot::Mutex;

#[cfg(test)]
pub use switching::{ArcSwap, AtomicBool, AtomicU64, Mutex, explore};

#[cfg(test)]
mod switching {
    use std::{
        fmt,
        ops::{Deref, DerefMut},
        sync::{Arc, atomic},
    };

    use shuttle::{Config, Runner, scheduler::RandomScheduler};

    use super::Ordering;

    /// Bytes of a simulated thread's stack. Unoptimised code needs more than shuttle's default.
    const STACK_BYTES: usize = 256 * 1_024;
    /// Where schedules begin, unless `SHUTTLE_RANDOM_SEED` says otherwise: a run of the tests repeats the one before.
    const SEED: u64 = 1;

    /// Runs a test under random schedules of the threads that it spawns with [`shuttle::thread::spawn`]: `rounds` of them,
    /// or as many as `INTERLEAVINGS` says. Fails if a schedule makes it panic or leaves every thread waiting.
    ///
    /// All threads run on the caller's, one at a time. Tests must not share state between rounds.
    pub fn explore(rounds: usize, test: impl Fn() + Send + Sync + 'static) {
        let rounds = std::env::var("INTERLEAVINGS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(rounds);
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        config.silence_warnings = true;
        Runner::new(RandomScheduler::new_from_seed(SEED, rounds), config).run(test);
    }

    /// Other threads may run now.
    fn switch() {
        if shuttle::current::try_get_current_task().is_some() && !std::thread::panicking() {
            shuttle::thread::yield_now();
        }
    }

    #[derive(Default)]
    pub struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            switch();
            if shuttle::current::try_get_current_task().is_none() {
                return MutexGuard(Some(self.0.lock()));
            }
            loop {
                // Waiting in the kernel would stop the thread on which all simulated threads run.
                match self.0.try_lock() {
                    Some(guard) => return MutexGuard(Some(guard)),
                    None => shuttle::thread::yield_now(),
                }
            }
        }
    }

    impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(formatter)
        }
    }

    /// Holds the lock; `None` only while it is dropped.
    pub struct MutexGuard<'a, T>(Option<parking_lot::MutexGuard<'a, T>>);

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            drop(self.0.take());
            // Before whatever follows that is no access of these types: waking a task, for instance.
            switch();
        }
    }

    #[derive(Debug)]
    pub struct ArcSwap<T>(arc_swap::ArcSwap<T>);

    impl<T> ArcSwap<T> {
        pub fn new(value: Arc<T>) -> Self {
            Self(arc_swap::ArcSwap::new(value))
        }

        pub fn load(&self) -> arc_swap::Guard<Arc<T>> {
            switch();
            self.0.load()
        }

        pub fn load_full(&self) -> Arc<T> {
            switch();
            self.0.load_full()
        }

        pub fn swap(&self, value: Arc<T>) -> Arc<T> {
            switch();
            self.0.swap(value)
        }
    }

    #[derive(Debug)]
    pub struct AtomicBool(atomic::AtomicBool);

    impl AtomicBool {
        pub fn new(value: bool) -> Self {
            Self(atomic::AtomicBool::new(value))
        }

        pub fn load(&self, ordering: Ordering) -> bool {
            switch();
            self.0.load(ordering)
        }

        pub fn store(&self, value: bool, ordering: Ordering) {
            switch();
            self.0.store(value, ordering);
        }
    }

    #[derive(Debug)]
    pub struct AtomicU64(atomic::AtomicU64);

    impl AtomicU64 {
        pub fn new(value: u64) -> Self {
            Self(atomic::AtomicU64::new(value))
        }

        pub fn load(&self, ordering: Ordering) -> u64 {
            switch();
            self.0.load(ordering)
        }

        pub fn store(&self, value: u64, ordering: Ordering) {
            switch();
            self.0.store(value, ordering);
        }

        pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
            switch();
            self.0.fetch_add(value, ordering)
        }
    }

    #[test]
    fn explore_finds_a_lost_update() {
        let found = std::panic::catch_unwind(|| {
            explore(100, || {
                let count = Arc::new(AtomicU64::new(0));
                let add = |count: Arc<AtomicU64>| {
                    move || {
                        let read = count.load(Ordering::SeqCst);
                        count.store(read + 1, Ordering::SeqCst);
                    }
                };
                let other = shuttle::thread::spawn(add(count.clone()));
                add(count.clone())();
                other.join().unwrap();
                assert_eq!(count.load(Ordering::SeqCst), 2);
            });
        });
        assert!(found.is_err());
    }
}
