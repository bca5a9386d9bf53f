//! How do figures become pictures? Plain SVG, legible on light and dark.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const COLOURS: [&str; 4] = ["#8a8f98", "#3574d4", "#d4743a", "#3aa06a"];

/// Values over time.
#[derive(Clone)]
pub struct Curve {
    pub name: String,
    /// Seconds, messages a second.
    pub points: Vec<(f64, f64)>,
}

pub fn bars(title: &str, unit: &str, bars: &[(String, f64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let height = 70.0 + 34.0 * bars.len() as f64;
    let mut svg = open(title, height);
    for (row, (name, value)) in bars.iter().enumerate() {
        let y = 44.0 + 34.0 * row as f64;
        let length = 400.0 * value / most;
        let colour = COLOURS[row % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<text x=\"150\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"160\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"24\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{value:.0}</text>",
            y + 17.0,
            escape(name),
            168.0 + length,
            y + 17.0,
        );
    }
    let _ = write!(svg, "<text x=\"160\" y=\"{:.1}\">{}</text>\n</svg>\n", height - 8.0, escape(unit));
    svg
}

pub fn curves(title: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let last = all().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let most = all().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let (left, top, width, height) = (70.0, 40.0, 620.0, 240.0);
    let mut svg = open(title, 330.0 + 18.0 * curves.len() as f64);
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let y = top + height * (1.0 - share);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#8a8f98\" stroke-opacity=\"0.3\"/>\
             <text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{:.0}</text>",
            left + width,
            y + 4.0,
            most * share,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"300\">0</text><text x=\"690\" y=\"300\" text-anchor=\"end\">{last:.0} s</text>"
    );
    for (row, curve) in curves.iter().enumerate() {
        let colour = COLOURS[row % COLOURS.len()];
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", left + width * x / last, top + height * (1.0 - y / most)))
            .collect();
        let y = 322.0 + 18.0 * row as f64;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <rect x=\"70\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"90\" y=\"{y:.1}\">{}</text>",
            points.join(" "),
            y - 11.0,
            escape(&curve.name),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
