//! A latency curve as SVG: times over rate, both p50 and p99, with the bound that was asked for.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Room around the plot: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (64.0, 24.0, 24.0, 48.0);

/// One measured rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Orders a second.
    pub(super) rate: f64,
    /// Half of the orders ended within this.
    pub(super) p50_ms: f64,
    /// All but one in a hundred did.
    pub(super) p99_ms: f64,
}

/// The curve.
#[derive(Debug)]
pub(super) struct Curve {
    /// In order of rate.
    points: Vec<Point>,
    bound_ms: f64,
}

impl Curve {
    /// Of points in any order.
    pub(super) fn new(mut points: Vec<Point>, bound_ms: f64) -> Self {
        points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        Self { points, bound_ms }
    }

    /// The picture. Times are on a logarithmic axis, since a system past its limit is late by magnitudes.
    pub(super) fn svg(&self) -> String {
        let (left, right, top, bottom) = MARGIN;
        let rate_max = self.points.iter().map(|point| point.rate).fold(1.0, f64::max) * 1.05;
        let all = self.points.iter().flat_map(|point| [point.p50_ms, point.p99_ms]);
        let slowest = all.fold(self.bound_ms, f64::max).max(10.0);
        let decades = slowest.log10().ceil();
        let x = |rate: f64| left + rate / rate_max * (WIDTH - left - right);
        let y = |ms: f64| HEIGHT - bottom - ms.max(1.0).log10() / decades * (HEIGHT - top - bottom);

        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
        );
        for decade in 0..=decades as u32 {
            let ms = 10_f64.powi(decade.cast_signed());
            line(&mut svg, (left, y(ms)), (WIDTH - right, y(ms)), "#ddd", "");
            text(&mut svg, (left - 8.0, y(ms) + 4.0), "end", &format!("{ms} ms"));
        }
        for tick in 0..=5 {
            let rate = rate_max / 1.05 * f64::from(tick) / 5.0;
            text(
                &mut svg,
                (x(rate), HEIGHT - bottom + 18.0),
                "middle",
                &format!("{rate:.0}"),
            );
        }
        text(
            &mut svg,
            (f64::midpoint(left, WIDTH - right), HEIGHT - 8.0),
            "middle",
            "orders a second",
        );
        line(
            &mut svg,
            (left, y(self.bound_ms)),
            (WIDTH - right, y(self.bound_ms)),
            "#b91c1c",
            "4 4",
        );
        let of = |ms: fn(&Point) -> f64| self.points.iter().map(move |point| (x(point.rate), y(ms(point))));
        series(
            &mut svg,
            &of(|point| point.p50_ms).collect::<Vec<_>>(),
            "#1d4ed8",
            "p50",
        );
        series(
            &mut svg,
            &of(|point| point.p99_ms).collect::<Vec<_>>(),
            "#b45309",
            "p99",
        );
        svg.push_str("</svg>\n");
        svg
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
    write(
        svg,
        format_args!(
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-dasharray="{dashes}"/>"#,
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, what: &str) {
    write(
        svg,
        format_args!(
            r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}">{what}</text>"#,
            at.0, at.1
        ),
    );
}

fn series(svg: &mut String, points: &[(f64, f64)], colour: &str, name: &str) {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    write(
        svg,
        format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        ),
    );
    for (x, y) in points {
        write(
            svg,
            format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#),
        );
    }
    if let Some((x, y)) = points.last() {
        text(svg, (*x, *y - 8.0), "end", name);
    }
}

fn write(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("writing to a text does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_goes_by_rate_and_stays_within_its_frame() {
        let point = |rate, p99_ms| Point {
            rate,
            p50_ms: 10.0,
            p99_ms,
        };
        let curve = Curve::new(
            vec![point(200.0, 40.0), point(100.0, 20.0), point(300.0, 25_000.0)],
            100.0,
        );
        let svg = curve.svg();
        let p99 = svg.lines().filter(|line| line.starts_with("<polyline")).nth(1).unwrap();
        let places: Vec<(f64, f64)> = p99
            .split('"')
            .nth(1)
            .unwrap()
            .split(' ')
            .map(|place| place.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert!(places.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1), "{places:?}");
        assert!(
            places
                .iter()
                .all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y))
        );
        assert!(svg.ends_with("</svg>\n"));
    }
}
