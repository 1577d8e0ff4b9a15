//! The resources that the process uses, under the names that Prometheus client libraries use:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.

use prometheus_client::registry::Registry;

/// Read again for each scrape. Empty on systems without /proc.
pub fn registry() -> Registry {
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "nothing is registered"))]
    let mut registry = Registry::with_prefix("process");
    #[cfg(target_os = "linux")]
    registry.register_collector(Box::new(linux::Process));
    registry
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;
    use std::fs::File;

    use nix::errno::Errno;
    use nix::sys::resource::{Resource, getrlimit};
    use procfs::{ProcResult, WithCurrentSystemInfo as _};
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::Unit;

    #[derive(Debug)]
    pub struct Process;

    struct Taken {
        cpu_seconds: f64,
        resident_bytes: u64,
        threads: i64,
        files: usize,
    }

    impl Taken {
        fn read() -> ProcResult<Self> {
            let process = procfs::process::Process::myself()?;
            let stat = process.stat()?;
            let ticks = (stat.utime + stat.stime) as f64;
            Ok(Self {
                cpu_seconds: ticks / procfs::ticks_per_second() as f64,
                resident_bytes: stat.rss_bytes().get(),
                threads: stat.num_threads,
                files: process.fd_count()?,
            })
        }
    }

    impl Collector for Process {
        fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
            let mut each = Each(encoder);
            let files_max = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(max, _)| max);
            let Ok(taken) = Taken::read() else {
                // If the limit of open files is reached, /proc cannot be opened, either.
                let full = File::open("/proc/self/stat").err().and_then(|why| why.raw_os_error())
                    == Some(Errno::EMFILE as i32);
                return match files_max {
                    Some(max) if full => each.say_files(max, max),
                    _ => Ok(()),
                };
            };
            let cpu = ConstCounter::new(taken.cpu_seconds);
            each.say("cpu", "Processor time used", Some(Unit::Seconds), &cpu)?;
            let resident = ConstGauge::new(taken.resident_bytes);
            each.say("resident_memory", "Resident memory", Some(Unit::Bytes), &resident)?;
            each.say("threads", "Threads", None, &ConstGauge::new(taken.threads))?;
            files_max.map_or(Ok(()), |max| each.say_files(taken.files as u64, max))
        }
    }

    struct Each<'a>(DescriptorEncoder<'a>);

    impl Each<'_> {
        fn say_files(&mut self, open: u64, max: u64) -> fmt::Result {
            let help = "Open file descriptors; each connection takes one";
            self.say("open_fds", help, None, &ConstGauge::new(open))?;
            self.say("max_fds", "Maximum open file descriptors", None, &ConstGauge::new(max))
        }

        fn say(
            &mut self,
            name: &str,
            help: &str,
            unit: Option<Unit>,
            metric: &impl EncodeMetric,
        ) -> fmt::Result {
            let encoder =
                self.0.encode_descriptor(name, help, unit.as_ref(), metric.metric_type())?;
            metric.encode(encoder)
        }
    }
}
