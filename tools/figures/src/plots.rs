//! Plots as SVG: both axes logarithmic, lines over measured points.

#[cfg(feature = "peers")]
use std::fs::File;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use plotters::coord::combinators::LogCoord;
use plotters::prelude::*;

use crate::error::Error;

const SIZE: (u32, u32) = (900, 540);
const COLORS: [RGBColor; 12] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
    RGBColor(90, 90, 90),
    RGBColor(227, 119, 194),
    RGBColor(188, 189, 34),
    RGBColor(0, 60, 110),
    RGBColor(120, 0, 20),
];
/// The marks of an axis that ends sooner would be too few to read.
const SPAN_MIN: f64 = 8.0;

/// Both axes logarithmic, drawn as SVG.
type Plane<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<LogCoord<f64>, LogCoord<f64>>>;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line over dots.
    Line,
    /// A dashed line over dots.
    Dashed,
    /// A thin line without dots, for many points.
    Curve,
    /// Circles, joined by nothing.
    Circles,
}

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Which color; the same number, the same color.
    pub color: usize,
    /// How it is drawn.
    pub style: Style,
    /// What it shows; points that a logarithm does not have are left out.
    pub points: Vec<(f64, f64)>,
}

/// One plot.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: String,
    /// Beside it.
    pub y: String,
    /// What it shows.
    pub series: Vec<Series>,
}

impl Chart {
    /// Writes the plot to `path`; none when there is nothing to show, and false then.
    pub fn write(mut self, path: &Path) -> Result<bool, Error> {
        for series in &mut self.series {
            series.points.retain(|(x, y)| x.is_finite() && y.is_finite() && *x > 0.0 && *y > 0.0);
        }
        self.series.retain(|series| !series.points.is_empty());
        if self.series.is_empty() {
            return Ok(false);
        }
        self.draw(path).map_err(|error| Error::Plot {
            file: path.display().to_string(),
            why: error.to_string(),
        })?;
        Ok(true)
    }

    fn emptiest_corner(&self, x: (f64, f64), y: (f64, f64)) -> SeriesLabelPosition {
        let place = |at: f64, (low, high): (f64, f64)| (at / low).ln() / (high / low).ln();
        let points = self.series.iter().flat_map(|series| &series.points);
        emptiest(&points.map(|point| (place(point.0, x), place(point.1, y))).collect::<Vec<_>>())
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = bounds(points().map(|point| point.0));
        let y = bounds(points().map(|point| point.1));
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d((x.0..x.1).log_scale(), (y.0..y.1).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|value| axis_label(*value))
            .y_label_formatter(&|value| axis_label(*value))
            .bold_line_style(BLACK.mix(0.18))
            .light_line_style(BLACK.mix(0.06))
            .label_style(("sans-serif", 13))
            .draw()?;
        for series in &self.series {
            series.draw(&mut chart)?;
        }
        chart
            .configure_series_labels()
            .position(self.emptiest_corner(x, y))
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 13))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

impl Series {
    fn draw(&self, chart: &mut Plane<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let color = COLORS[self.color % COLORS.len()];
        let points = || self.points.iter().copied();
        let (thick, thin) = (color.stroke_width(2), color.stroke_width(1));
        let drawn = match self.style {
            Style::Line => chart.draw_series(LineSeries::new(points(), thick))?,
            Style::Curve => chart.draw_series(LineSeries::new(points(), thin))?,
            Style::Dashed => chart.draw_series(DashedLineSeries::new(points(), 6, 4, thick))?,
            Style::Circles => chart.draw_series(points().map(|p| Circle::new(p, 5, thick)))?,
        };
        let drawn = drawn.label(&self.name);
        match self.style {
            Style::Circles => drawn.legend(move |(x, y)| Circle::new((x + 11, y), 5, thick)),
            style => drawn.legend(move |(x, y)| {
                let width = if style == Style::Dashed { 10 } else { 22 };
                PathElement::new([(x, y), (x + width, y)], thick)
            }),
        };
        if matches!(self.style, Style::Line | Style::Dashed) {
            chart.draw_series(points().map(|p| Circle::new(p, 3, color.filled())))?;
        }
        Ok(())
    }
}

/// The corner, of those where a legend may stand, that hides the fewest points.
fn emptiest(points: &[(f64, f64)]) -> SeriesLabelPosition {
    let inside = |right: bool, upper: bool| {
        let near = |at: f64, high: bool| if high { at > 0.65 } else { at < 0.35 };
        points.iter().filter(|(x, y)| near(*x, right) && near(*y, upper)).count()
    };
    let corners = [
        (SeriesLabelPosition::UpperLeft, inside(false, true)),
        (SeriesLabelPosition::LowerRight, inside(true, false)),
        (SeriesLabelPosition::UpperRight, inside(true, true)),
        (SeriesLabelPosition::LowerLeft, inside(false, false)),
    ];
    // The first of equals.
    let best = corners.into_iter().min_by_key(|(_, hidden)| *hidden);
    best.map_or(SeriesLabelPosition::UpperLeft, |(corner, _)| corner)
}

/// The ends of an axis that shows all of `values`, with some air, and spans enough to have marks.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let widen = (SPAN_MIN / (high / low)).sqrt().max(1.15);
    (low / widen, high * widen)
}

/// A number as short as an axis wants it: `250`, `1k`, `20M`, `0.05`.
fn axis_label(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 0.9995e9 => (v / 1e9, "G"),
        v if v >= 0.9995e6 => (v / 1e6, "M"),
        v if v >= 999.5 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let text = if scaled >= 99.5 { format!("{scaled:.0}") } else { format!("{scaled:.3}") };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

/// The latencies of appends in an interval log, in nanoseconds, all intervals together.
pub fn read_histogram(path: &Path) -> Result<Histogram<u64>, Error> {
    let bytes = std::fs::read(path).map_err(Error::at(path))?;
    let mut all: Option<Histogram<u64>> = None;
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(&bytes) {
        let entry = entry.map_err(|why| Error::content(path, format!("{why:?}")))?;
        let LogEntry::Interval(interval) = entry else { continue };
        if interval.tag().is_some_and(|tag| tag.as_str() != "append") {
            continue;
        }
        let encoded = STANDARD
            .decode(interval.encoded_histogram())
            .map_err(|why| Error::content(path, why))?;
        let histogram: Histogram<u64> = deserializer
            .deserialize(&mut encoded.as_slice())
            .map_err(|why| Error::content(path, format!("{why:?}")))?;
        match &mut all {
            Some(all) => all.add(&histogram).map_err(|why| Error::content(path, why))?,
            None => all = Some(histogram),
        }
    }
    all.ok_or_else(|| Error::content(path, "no latencies in it"))
}

/// Writes `histogram` as an interval log of one interval of `seconds`.
#[cfg(feature = "peers")]
pub fn write_histogram(
    path: &Path,
    histogram: &Histogram<u64>,
    began: std::time::SystemTime,
    seconds: f64,
) -> Result<(), Error> {
    use hdrhistogram::serialization::V2DeflateSerializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
    use std::time::Duration;

    let mut file = File::create(path).map_err(Error::at(path))?;
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .with_base_time(began)
        .with_start_time(began)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(Error::at(path))?
        .write_histogram(
            histogram,
            Duration::ZERO,
            Duration::from_secs_f64(seconds),
            Tag::new("append"),
        )
        .map_err(|why| Error::content(path, format!("{why:?}")))
}

/// The curve of a histogram: 1/(1-percentile) and microseconds, about twenty points a decade, to
/// the last percentile that more than one value tells something of.
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let last = histogram.len() as f64;
    let points = (0..)
        .map(|step| 10f64.powf(f64::from(step) / 20.0))
        .take_while(|inverse| *inverse <= last.max(1.0));
    points
        .map(|inverse| {
            let quantile = 1.0 - 1.0 / inverse;
            (inverse, histogram.value_at_quantile(quantile) as f64 / 1e3)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for value in 1..=1000u64 {
            histogram.record(value * 1000).unwrap();
        }
        histogram
    }

    #[test]
    fn a_curve_goes_through_the_percentiles_and_ends_where_nothing_is_known() {
        let curve = curve(&histogram());
        assert_eq!(curve.len(), 61);
        let at = |inverse: f64| {
            curve.iter().find(|point| (point.0 - inverse).abs() < 1e-6 * inverse).unwrap().1
        };
        assert!((at(10.0) - 900.0).abs() < 2.0 && (at(100.0) - 990.0).abs() < 2.0);
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert!(super::curve(&Histogram::new(3).unwrap()).len() <= 1);
    }

    #[test]
    #[cfg(feature = "peers")]
    fn a_histogram_that_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.hlog");
        write_histogram(&path, &histogram(), std::time::SystemTime::now(), 1.0).unwrap();
        let read = read_histogram(&path).unwrap();
        assert_eq!((read.len(), read.max()), (1000, histogram().max()));
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(read_histogram(&path).unwrap_err().to_string().contains("x.hlog"));
    }

    #[test]
    fn what_a_logarithm_does_not_have_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        let chart = |points: &[(f64, f64)]| Chart {
            title: "t".to_owned(),
            x: "x".to_owned(),
            y: "y".to_owned(),
            series: vec![Series {
                name: "the series".to_owned(),
                color: 0,
                style: Style::Dashed,
                points: points.to_vec(),
            }],
        };
        assert!(!chart(&[(0.0, 1.0), (1.0, f64::NAN)]).write(&path).unwrap());
        assert!(!path.exists());
        assert!(chart(&[(1.0, 1.0), (0.0, 1.0)]).write(&path).unwrap());
        assert!(std::fs::read_to_string(&path).unwrap().contains("the series"));
    }

    #[test]
    fn the_legend_stands_where_it_hides_least() {
        let rising = [(0.1, 0.1), (0.9, 0.9)];
        assert!(matches!(emptiest(&rising), SeriesLabelPosition::UpperLeft));
        let falling = [(0.1, 0.9), (0.9, 0.1)];
        assert!(matches!(emptiest(&falling), SeriesLabelPosition::UpperRight));
    }

    #[test]
    fn axes_are_labelled_shortly() {
        let shown: Vec<_> = [0.05, 1.0, 250.0, 1000.0, 1500.0, 2e7].map(axis_label).into();
        assert_eq!(shown, ["0.05", "1", "250", "1k", "1.5k", "20M"]);
        let (low, high) = bounds([5.0].into_iter());
        assert!(low < 5.0 && high > 5.0 && high / low >= SPAN_MIN * 0.999);
    }
}
