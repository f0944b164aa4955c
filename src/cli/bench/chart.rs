//! The cost curve as a text plot and as an SVG picture.

use plotters::prelude::*;

/// The cost of one width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) n_rows: usize,
    /// Median cost, in units of c(1); `least` and `greatest` likewise.
    pub(super) cost: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

/// One line of the chart; points are sorted by width.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

/// Size of the plot in characters, without the axes.
const PLOT_SIZE: (usize, usize) = (64, 16);

const MARKS: [char; 6] = ['*', 'o', '+', 'x', '#', '@'];

/// The greatest width and cost, at least 2 each.
fn limits(series: &[Series]) -> (f64, f64) {
    let points = || series.iter().flat_map(|series| &series.points);
    let n_rows = points().map(|point| point.n_rows as f64).fold(2.0, f64::max);
    (n_rows, points().map(|point| point.cost).fold(2.0, f64::max))
}

/// Plots c(n) over n. Dots mark parity: n rows cost as much as n single rows.
pub(super) fn plot(series: &[Series]) -> String {
    let (columns, lines) = PLOT_SIZE;
    let (max_rows, max_cost) = limits(series);
    let column = |n_rows: f64| ((n_rows - 1.0) / (max_rows - 1.0) * (columns - 1) as f64).round() as usize;
    let line = |cost: f64| (cost / max_cost * (lines - 1) as f64).round() as usize;
    let mut grid = vec![vec![' '; columns]; lines];
    let mut put = |n_rows: f64, cost: f64, mark| grid[line(cost)][column(n_rows)] = mark;
    let step = (max_rows - 1.0) / (columns - 1) as f64;
    let parity = (0..columns).map(|x| 1.0 + step * x as f64);
    parity.filter(|&n_rows| n_rows <= max_cost).for_each(|n_rows| put(n_rows, n_rows, '.'));
    for (series, mark) in series.iter().zip(MARKS.into_iter().cycle()) {
        series.points.iter().for_each(|point| put(point.n_rows as f64, point.cost, mark));
    }
    let mut out = String::from("c(n)\n");
    for (number, cells) in grid.iter().enumerate().rev() {
        let label = match number % 5 {
            0 => format!("{:5.1}", max_cost * number as f64 / (lines - 1) as f64),
            _ => " ".repeat(5),
        };
        out += format!("{label} | {}", String::from_iter(cells)).trim_end();
        out.push('\n');
    }
    out += &format!("      +{}\n", "-".repeat(columns + 1));
    out += &format!("        1{:>width$} rows\n", max_rows, width = columns - 1);
    for (series, mark) in series.iter().zip(MARKS.into_iter().cycle()) {
        out += &format!("        {mark} {}\n", series.name);
    }
    out + "        . same cost as one row after the other"
}

/// The plot as SVG, with the spread of the samples.
pub(super) fn svg(title: &str, series: &[Series]) -> Result<String, Box<dyn std::error::Error>> {
    let (max_rows, max_cost) = limits(series);
    let mut out = String::new();
    let area = SVGBackend::with_string(&mut out, (760, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..max_rows, 0.0..max_cost * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("rows: tokens in one step (n)")
        .y_desc("cost in steps of one row: c(n)")
        .light_line_style(WHITE)
        .draw()?;
    let parity = [(0.0, 0.0), (max_rows.min(max_cost), max_rows.min(max_cost))];
    chart
        .draw_series(LineSeries::new(parity, BLACK.mix(0.4)))?
        .label("same cost as one row after the other")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.4)));
    for (number, series) in series.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        let line = series.points.iter().map(|point| (point.n_rows as f64, point.cost));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(series.points.iter().map(|point| {
            let n_rows = point.n_rows as f64;
            ErrorBar::new_vertical(n_rows, point.least, point.cost, point.greatest, color, 6)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, costs: &[(usize, f64)]) -> Series {
        let point = |&(n_rows, cost)| Point { n_rows, cost, least: cost * 0.9, greatest: cost * 1.1 };
        Series { name: name.into(), points: costs.iter().map(point).collect() }
    }

    #[test]
    fn the_plot_has_every_point_in_its_place() {
        let plot = plot(&[
            series("256 tokens in the context", &[(1, 1.0), (33, 7.0), (64, 15.0)]),
            series("8192", &[(64, 14.0)]),
        ]);
        let lines: Vec<&str> = plot.lines().collect();
        assert_eq!(lines[1], format!(" 15.0 | {}.{}*", " ".repeat(14), " ".repeat(48)));
        assert!(lines[2].ends_with('o'), "{plot}");
        assert!(lines[15].starts_with("      | *"), "c(1) = 1 is one line above 0: {plot}");
        assert!(plot.contains("* 256 tokens in the context\n") && plot.contains("o 8192\n"), "{plot}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{plot}");
    }

    #[test]
    fn the_picture_is_an_svg_with_all_of_it() {
        let svg = svg("a <model>", &[series("256 tokens in the context", &[(1, 1.0), (64, 9.0)])]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for part in ["256 tokens in the context", "rows: tokens in one step (n)", "a &lt;model&gt;"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }

    #[test]
    fn a_curve_of_one_point_is_drawn() {
        assert!(plot(&[series("0", &[(1, 1.0)])]).contains('*'));
        svg("one", &[series("0", &[(1, 1.0)])]).unwrap();
    }
}
