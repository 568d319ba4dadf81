//! Line charts as SVG.

use std::error::Error;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::stats::Spread;

/// Charts below each other.
pub struct Chart {
    /// Above all.
    pub title: String,
    /// From top to bottom; not empty.
    pub panels: Vec<Panel>,
}

/// One chart.
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Names of the positions on the x axis: 0, 1, and so on.
    pub ticks: Vec<String>,
    /// What the x axis shows, with the unit.
    pub x_label: String,
    /// What the y axis shows, with the unit.
    pub y_label: String,
    /// True for a logarithmic y axis; otherwise it begins at 0.
    pub is_log: bool,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// One series of values.
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Lines of the same colour belong together; see [`PALETTE`].
    pub colour: usize,
    /// True for what others are compared with, where its line might be taken for one of theirs.
    pub is_dashed: bool,
    /// Values by position on the x axis.
    pub points: Vec<(usize, Spread)>,
}

/// Colours that the colour-blind can tell apart (Okabe and Ito, 2008), without yellow, which is hard to see on white.
pub const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
/// The colour of what the others are compared with.
pub const GREY: usize = PALETTE.len() - 1;

const WIDTH: u32 = 720;
const LEGEND_WIDTH: u32 = 150;
const HEIGHT: u32 = 360;
const TITLE_HEIGHT: u32 = 28;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

impl Chart {
    /// The SVG file's text.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|e| anyhow!("cannot draw '{}': {e}", self.title))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn Error>> {
        let size = (WIDTH, HEIGHT * self.panels.len() as u32 + TITLE_HEIGHT);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (top, below) = root.split_vertically(TITLE_HEIGHT);
        top.titled(&self.title, ("sans-serif", 19).into_font().color(&INK))?;
        for (panel, area) in self.panels.iter().zip(below.split_evenly((self.panels.len(), 1))) {
            let values = panel.lines.iter().flat_map(|line| &line.points);
            let least = values.clone().map(|(_, y)| y.min).fold(f64::INFINITY, f64::min);
            let largest = values.map(|(_, y)| y.max).fold(0.0, f64::max);
            match panel.is_log {
                true => panel.draw(&area, (least * 0.7..largest * 1.5).log_scale())?,
                false => panel.draw(&area, 0.0..largest * 1.08)?,
            }
        }
        root.present()?;
        drop(root);
        Ok(())
    }
}

impl Panel {
    fn draw<Y>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        y: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    ) -> Result<(), Box<dyn Error>>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let font = |size: i32| ("sans-serif", size).into_font().color(&INK);
        let last = self.ticks.len() as f64 - 1.0;
        let (plot, legend) = area.split_horizontally(WIDTH - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.title, font(16))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(-0.3..last + 0.3, y)?;
        let tick = |x: &f64| match (x.fract().abs() < 1e-9 && *x > -0.5).then(|| self.ticks.get(*x as usize)) {
            Some(Some(name)) => name.clone(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(self.ticks.len())
            .x_label_formatter(&tick)
            .y_label_formatter(&|y| format!("{y}"))
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .label_style(font(13))
            .axis_desc_style(font(14))
            .draw()?;
        let pixel = (last + 0.6) / f64::from(chart.plotting_area().dim_in_pixel().0);
        let largest_first = |line: &Line| line.points.first().map_or(0.0, |(_, y)| y.median);
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by(|a, b| largest_first(b).total_cmp(&largest_first(a)));
        for (i, line) in lines.iter().enumerate() {
            let style = PALETTE[line.colour % PALETTE.len()].stroke_width(2);
            // Beside each other, so that bars of lines that nearly coincide can be told apart.
            let shift = (i as f64 - (lines.len() as f64 - 1.0) / 2.0) * pixel * 6.0;
            let points = line.points.iter().map(|(x, y)| (*x as f64 + shift, y.median));
            let entry = [(0, 62 + 20 * i as i32), (22, 62 + 20 * i as i32)];
            if line.is_dashed {
                chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?;
                legend.draw(&DashedPathElement::new(entry, 6, 4, style))?;
            } else {
                chart.draw_series(LineSeries::new(points, style.filled()).point_size(3))?;
                legend.draw(&PathElement::new(entry, style))?;
            }
            legend.draw(&Text::new(line.name.clone(), (28, entry[0].1 - 6), font(13)))?;
            let bar = |(x, y): &(usize, Spread)| {
                ErrorBar::new_vertical(*x as f64 + shift, y.min, y.median, y.max, style.stroke_width(1).filled(), 6)
            };
            chart.draw_series(line.points.iter().filter(|(_, y)| y.max > y.min).map(bar))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let spread = |median| Spread { median, min: 0.9 * median, max: 1.1 * median };
        let points = vec![(0, spread(20.0)), (1, spread(10.0))];
        let line = |name: &str, is_dashed| Line { name: name.to_owned(), colour: 0, is_dashed, points: points.clone() };
        let panel = |is_log| Panel {
            title: "a & b".to_owned(),
            ticks: vec!["1k".to_owned(), "10M".to_owned()],
            x_label: "flows".to_owned(),
            y_label: "Mpps".to_owned(),
            is_log,
            lines: vec![line("ours", false), line("theirs", true)],
        };
        Chart { title: "Rate <by> flows".to_owned(), panels: vec![panel(false), panel(true)] }
    }

    #[test]
    fn a_chart_has_its_texts_and_lines() {
        let svg = chart().to_svg().unwrap();
        assert_eq!(svg, chart().to_svg().unwrap(), "drawn twice, it is the same");
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for text in ["Rate <by> flows", "a & b", "1k", "10M", "flows", "Mpps", "ours", "theirs"] {
            assert!(texts.contains(&text), "{text} is not in {texts:?}");
        }
        let count = |tag| document.descendants().filter(|node| node.has_tag_name(tag)).count();
        // Four values in each panel have bars with a point; the two of the line that is not dashed have one of their own.
        assert_eq!(count("circle"), 12);
    }
}
