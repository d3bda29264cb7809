//! Logs, traces and metrics of one process.
//!
//! Logs go to stderr: readable on a terminal, JSON elsewhere. Each span has W3C trace ids whether or not anyone collects
//! them, because the ids also travel in event rows and Kafka headers; spans leave the process by OTLP (http/protobuf)
//! only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Metrics are scraped by Prometheus.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
pub use tracing::Level;
use tracing::subscriber::Interest;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{DynFilterFn, FilterExt as _};
use tracing_subscriber::layer::{Filter, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Layer as _};

pub mod names;
mod otlp;
mod trace_context;

pub use trace_context::{TraceContext, TraceContextError};

/// Libraries that narrate are kept to warnings unless `RUST_LOG` says otherwise.
const QUIET: &str = "deadpool=error,\
    tansu_auth=warn,tansu_broker=warn,tansu_model=warn,tansu_sans_io=warn,tansu_schema=warn,tansu_service=warn,\
    tansu_storage=warn,libsql=warn,rdkafka=warn,librdkafka=warn,h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,\
    rustls=warn,tower=warn,tokio_postgres=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// Bounds of the duration histograms, in seconds: from an idle commit to a saga that waited for its deadline.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0,
];
/// Bounds of the batch size histograms.
const SIZE_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0,
];
/// How often recorded samples are folded into their histograms, so that memory stays bounded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last spans may take to leave at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose logs [`hush`] holds back: the embedded broker's storage, which calls each lock that it meets an error.
const HUSHED: &str = "tansu_storage";
/// How many [`Hush`]es there are.
static HUSHES: AtomicUsize = AtomicUsize::new(0);

/// Holds back the logs of the embedded broker's storage while it lives. See [`hush`].
#[must_use = "logs are shown again when it is dropped"]
#[derive(Debug)]
pub struct Hush(());

/// Keeps the errors of the embedded broker's storage out of the log until the answer is dropped: for a start that is tried
/// again by whoever called this, and who says what became of it.
pub fn hush() -> Hush {
    HUSHES.fetch_add(1, Ordering::Relaxed);
    Hush(())
}

impl Drop for Hush {
    fn drop(&mut self) {
        HUSHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets everything pass that nobody hushes. Only the hushed library's own lines are asked about more than once.
fn unless_hushed<S: tracing::Subscriber>() -> impl Filter<S> + Send + Sync {
    let is_concerned = |metadata: &Metadata<'_>| metadata.target().starts_with(HUSHED);
    DynFilterFn::new(move |metadata, _| !is_concerned(metadata) || HUSHES.load(Ordering::Relaxed) == 0)
        .with_callsite_filter(move |metadata| {
            if is_concerned(metadata) {
                Interest::sometimes()
            } else {
                Interest::always()
            }
        })
}

/// Sends what is still buffered when dropped. Hold it until the end of `main`.
#[must_use = "spans that are still buffered are lost when the guard is dropped early"]
#[derive(Debug)]
pub struct Guard {
    provider: SdkTracerProvider,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody is left to tell: the collector being away must not make a clean stop fail.
        let _ = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
    }
}

/// Starts logging and tracing as `service`, and logs from `level` up. Only the first call of a process takes effect.
///
/// `RUST_LOG` filters logs, `RONDO_LOG_FORMAT=text|json` overrides the choice of format.
pub fn init(service: &str, level: Level) -> Guard {
    let default_filter = |level: Level| EnvFilter::new(format!("{level},{QUIET}"));
    let exporter = otlp::endpoint_is_set().then(|| otlp::exporter(None));
    EXPORTING.store(matches!(exporter, Some(Ok(_))), Ordering::Relaxed);
    let (exporter, export_error) = match exporter {
        Some(Ok(exporter)) => (Some(exporter), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let mut builder =
        SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(service.to_owned()).build());
    builder = match exporter {
        // The standard's own variables (OTEL_TRACES_SAMPLER) choose another sampler.
        Some(exporter) => builder.with_batch_exporter(exporter),
        // Ids without recording: a span costs its ids and no more.
        None => builder.with_sampler(Sampler::AlwaysOff),
    };
    let provider = builder.build();
    let tracer = provider.tracer("rondo");
    // What RUST_LOG shows to a debugger's eyes is not for the collector, and the libraries' spans are for neither.
    let traces = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_tracked_inactivity(false)
        .with_threads(false)
        .with_filter(default_filter(Level::INFO));
    let (filter, filter_error) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.trim().is_empty() => match EnvFilter::try_new(&wanted) {
            Ok(filter) => (filter, None),
            Err(error) => (default_filter(level), Some(error)),
        },
        _ => (default_filter(level), None),
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match json_wanted() {
        true => logs
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        false => logs.compact().with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let subscriber = tracing_subscriber::registry()
        .with(traces)
        .with(logs.with_filter(filter.and(unless_hushed())));
    // A second call, as in tests that share a process, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    if let Some(error) = filter_error {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "RUST_LOG is not a filter such as `info,common=debug`; the default is used"
        );
    }
    if let Some(error) = export_error {
        tracing::warn!(
            error = &*error as &dyn std::error::Error,
            "traces are not exported: OTEL_EXPORTER_OTLP_ENDPOINT cannot be used"
        );
    }
    Guard { provider }
}

fn json_wanted() -> bool {
    match std::env::var("RONDO_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !std::io::stderr().is_terminal(),
    }
}

/// The process's metrics. The first call installs the recorder and describes the [`names`]; later ones return the same.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZE_BUCKETS))
        .expect("the bucket lists are not empty");
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // A recorder that somebody installed before keeps its place; ours then only stays empty.
    if metrics::set_global_recorder(recorder).is_ok() {
        names::describe();
        let upkeep = handle.clone();
        let spawned = std::thread::Builder::new()
            .name("metrics-upkeep".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP_INTERVAL);
                    upkeep.run_upkeep();
                }
            });
        spawned.expect("the process can start one more thread at its start");
    }
    handle
}

tokio::task_local! {
    static CARRIED: TraceContext;
}

/// Runs `work` so that [`current_trace`] inside it is `context` where no span tells. The HTTP server does this for each
/// request.
pub async fn carrying<F: Future>(context: TraceContext, work: F) -> F::Output {
    CARRIED.scope(context, work).await
}

/// A span for the handling of one record by `consumer`, which continues the trace that the record carries. `None` where
/// nobody would see it: spans are not exported, or the trace has none.
pub fn handling(consumer: &'static str, event_type: &str, traceparent: Option<&str>) -> Option<Span> {
    let parent = traceparent.filter(|_| EXPORTING.load(Ordering::Relaxed))?;
    // The span's own name is fixed when the program is compiled; `otel.name` is what collectors show.
    let span = tracing::info_span!(
        "handling",
        otel.name = format!("{consumer} {event_type}"),
        otel.kind = "consumer",
        messaging.system = "kafka",
        messaging.operation.type = "process",
        messaging.consumer.group.name = consumer,
        event.type = event_type,
    );
    continue_from(&span, Some(parent));
    Some(span)
}

/// Whether a collector was named.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Makes `span`, not yet entered, a child of the span that `traceparent` names.
pub fn continue_from(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.and_then(|text| text.parse::<TraceContext>().ok()) {
        let context = opentelemetry::Context::new().with_remote_span_context(parent.to_span_context());
        // Fails only when no subscriber has given the span ids, and then there is nothing to link.
        let _ = span.set_parent(context);
    }
}

/// Where we are in which trace: the current span's ids, else those that the task carries, else a new trace's.
pub fn current_trace() -> TraceContext {
    let context = Span::current().context();
    TraceContext::from_span_context(context.span().span_context())
        .or_else(|| CARRIED.try_with(Clone::clone).ok())
        .unwrap_or_else(TraceContext::generate)
}

/// Names the current span's correlation, so that every log line inside it shows which story it belongs to. The span must
/// have been made with an empty field `correlation.id`, as those of the HTTP server are.
pub fn correlate(id: impl std::fmt::Display) {
    Span::current().record("correlation.id", tracing::field::display(id));
}

/// [`current_trace`] as a W3C `traceparent`, for rows and headers.
pub fn current_traceparent() -> Option<String> {
    Some(current_trace().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn with_subscriber(test: impl FnOnce()) {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
    }

    #[test]
    fn a_span_continues_a_stored_trace_without_any_exporter() {
        with_subscriber(|| {
            let span = tracing::info_span!("work");
            continue_from(&span, Some(PARENT));
            let _entered = span.enter();
            let inside = current_traceparent().unwrap();
            assert!(inside.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{inside}");
            assert!(!inside.contains("b7ad6b7169203331"), "{inside} is the parent itself");
            let child = tracing::info_span!("inner");
            let deeper = child.in_scope(current_trace);
            assert_eq!(deeper.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        });
    }

    #[test]
    fn what_is_hushed_is_silent_until_the_hush_ends_and_others_are_heard() {
        #[derive(Clone, Default)]
        struct Page(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Page {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let page = Page::default();
        let writer = page.clone();
        let logs = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = EnvFilter::new("warn").and(unless_hushed());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logs.with_filter(filter)), || {
            let shout = |word: &str| {
                tracing::error!(target: "tansu_storage::lite", "storage {word}");
                tracing::error!("ours {word}");
            };
            let hushed = hush();
            shout("during");
            drop(hushed);
            shout("after");
        });
        let said = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(!said.contains("storage during"), "{said}");
        for heard in ["ours during", "storage after", "ours after"] {
            assert!(said.contains(heard), "{heard}: {said}");
        }
    }

    #[test]
    fn a_malformed_traceparent_starts_a_new_trace() {
        with_subscriber(|| {
            let span = tracing::info_span!("work");
            continue_from(&span, Some("00-zz-11-01"));
            let inside = span.in_scope(current_trace);
            assert_ne!(inside.trace_id(), "0".repeat(32));
            assert_eq!(span.in_scope(current_trace), inside, "one span has one id");
        });
    }

    #[test]
    fn handling_is_a_span_of_its_own_only_where_spans_are_exported() {
        with_subscriber(|| {
            assert!(handling("parcels", "ParcelSent", Some(PARENT)).is_none());
            EXPORTING.store(true, Ordering::Relaxed);
            let span = handling("parcels", "ParcelSent", Some(PARENT)).expect("somebody sees it");
            assert!(handling("parcels", "ParcelSent", None).is_none());
            EXPORTING.store(false, Ordering::Relaxed);
            let inside = span.in_scope(current_trace);
            assert_eq!(inside.trace_id(), "0af7651916cd43dd8448eb211c80319c");
            assert_ne!(inside.to_string(), PARENT);
        });
    }

    #[tokio::test]
    async fn without_a_subscriber_the_task_carries_the_trace() {
        let context: TraceContext = PARENT.parse().unwrap();
        let seen = carrying(context.clone(), async { current_trace() }).await;
        assert_eq!(seen, context);
        assert_ne!(current_trace().trace_id(), context.trace_id());
    }

    #[test]
    fn metrics_are_installed_once_and_described() {
        let first = metrics();
        metrics::counter!(names::INBOX_DUPLICATES_TOTAL, "consumer" => "here").increment(2);
        for text in [first.render(), metrics().render()] {
            assert!(text.contains("# HELP inbox_duplicates_total"), "{text}");
            assert!(text.contains(r#"inbox_duplicates_total{consumer="here"} 2"#), "{text}");
        }
    }

    #[test]
    fn durations_and_sizes_are_histograms_with_buckets() {
        let handle = metrics();
        metrics::histogram!(names::COMMIT_DURATION_SECONDS, "service" => "here").record(0.004);
        metrics::histogram!(names::COMMIT_BATCH_SIZE, "service" => "here", "source" => "http").record(3.0);
        let text = handle.render();
        assert!(
            text.contains(r#"commit_duration_seconds_bucket{service="here",le="0.005"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"commit_batch_size_bucket{service="here",source="http",le="5"} 1"#),
            "{text}"
        );
    }
}
