//! Metrics about a process's background tasks: counted in the same way in every process, under names of its own.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::tasks::TaskEvent;

/// The names of a process's metrics about tasks.
#[derive(Clone, Copy, Debug)]
pub struct TaskMetrics {
    pub live: &'static str,
    pub panics: &'static str,
    pub restarts: &'static str,
}

impl TaskMetrics {
    /// Tells the recorder what each metric means; call once, after the recorder is installed.
    pub fn describe(&self) {
        describe_gauge!(self.live, "Live background tasks, by name");
        describe_counter!(self.panics, "Panics of tasks, by name");
        describe_counter!(self.restarts, "Tasks started again after a panic, by name");
    }

    /// Counts what happened to a task.
    pub fn count(&self, name: &'static str, event: TaskEvent) {
        match event {
            TaskEvent::Started => {
                gauge!(self.live, "task" => name).increment(1.0);
                counter!(self.panics, "task" => name).absolute(0);
                counter!(self.restarts, "task" => name).absolute(0);
            }
            TaskEvent::Ended => gauge!(self.live, "task" => name).decrement(1.0),
            TaskEvent::Panicked => counter!(self.panics, "task" => name).increment(1),
            TaskEvent::Restarted => counter!(self.restarts, "task" => name).increment(1),
        }
    }
}
