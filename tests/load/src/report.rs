//! What a run found out, as text and as JSON.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::{
    drive::{Latencies, Window},
    process::Memory,
    scrape::Ledger,
};

/// Figures by name, in the order they were put in.
pub(crate) struct Report {
    measure: &'static str,
    label: String,
    figures: Vec<(&'static str, Value)>,
}

impl Report {
    pub(crate) fn new(measure: &'static str, label: &str) -> Self {
        Self {
            measure,
            label: label.to_owned(),
            figures: Vec::new(),
        }
    }

    /// A count or a text.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.figures.push((name, value.into()));
        self
    }

    /// A measured number, to three decimals; nothing when there is none.
    pub(crate) fn number(self, name: &'static str, value: impl Into<Option<f64>>) -> Self {
        match value.into() {
            Some(value) if value.is_finite() => self.with(name, (value * 1000.0).round() / 1000.0),
            _ => self,
        }
    }

    /// What a window saw; `unit` names what was brought.
    pub(crate) fn window(self, unit: &'static str, window: &Window) -> Self {
        let (wall, cpu) = (window.wall.as_secs_f64(), window.server_cpu.as_secs_f64());
        let brought = count(window.credentials);
        let ledger = window.ledger.as_ref();
        self.number("seconds", wall)
            .with(unit, window.credentials)
            .with("calls", window.calls)
            .number("per_second", brought / wall)
            .number("per_server_core_second", brought / cpu)
            .number("server_cpu_seconds", cpu)
            .number("server_cores", cpu / wall)
            .number("load_cpu_seconds", window.own_cpu.as_secs_f64())
            .latencies(&window.latencies)
            .memory(window.memory)
            .number("fsyncs", ledger.map(|ledger| ledger.fsyncs))
            .number(
                "leaves_per_fsync",
                ledger
                    .filter(|ledger| ledger.fsyncs > 0.0)
                    .map(|ledger| ledger.leaves / ledger.fsyncs),
            )
            .number("log_p50_ms", ledger.and_then(Ledger::log_p50_ms))
    }

    /// Of a sorted list.
    pub(crate) fn latencies(self, latencies: &Latencies) -> Self {
        self.number("p50_ms", latencies.quantile_ms(0.5))
            .number("p99_ms", latencies.quantile_ms(0.99))
            .number("max_ms", latencies.quantile_ms(1.0))
    }

    pub(crate) fn memory(self, memory: Memory) -> Self {
        self.with("rss_kib", memory.now).with("peak_rss_kib", memory.peak)
    }

    pub(crate) fn seconds(self, name: &'static str, value: Duration) -> Self {
        self.number(name, value.as_secs_f64())
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} of {}\n", self.measure, self.label);
        for (name, value) in &self.figures {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "  {name:<24} {value:>14}");
        }
        text
    }

    pub(crate) fn json(&self) -> Result<String> {
        let mut object = Map::new();
        object.insert("measure".into(), json!(self.measure));
        object.insert("label".into(), json!(self.label));
        for (name, value) in &self.figures {
            object.insert((*name).into(), value.clone());
        }
        let mut text = serde_json::to_string(&object).context("write the report as JSON")?;
        text.push('\n');
        Ok(text)
    }
}

/// A count as a number to calculate with; exact up to 2^53.
#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn count(value: u64) -> f64 {
    value as f64
}
