//! Blocks: a keyword with its words, and what stands between the braces behind it.

use super::lines::Line;
use super::words::{self, Word};
use crate::{Place, Report};

/// Blocks within blocks at most.
const MAX_DEPTH: usize = 16;

/// A keyword with what belongs to it.
#[derive(Debug)]
pub(super) struct Block {
    pub place: Place,
    pub keyword: String,
    /// The words behind the keyword.
    pub words: Vec<Word>,
    /// What stands between braces.
    pub children: Vec<Block>,
}

impl Block {
    /// The words behind the keyword as text.
    pub fn texts(&self) -> Vec<&str> {
        self.words.iter().map(|word| word.text.as_str()).collect()
    }

    /// The first word behind the keyword; empty if there is none.
    pub fn first(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// The whole line.
    pub fn line(&self) -> String {
        let mut line = self.keyword.clone();
        for word in &self.words {
            line.push(' ');
            line.push_str(&word.text);
        }
        line
    }
}

/// Puts lines together to blocks. Braces that do not match are reported.
pub(super) fn parse(lines: Vec<Line>, report: &mut Report) -> Vec<Block> {
    // The blocks that are open, each with what it has so far; the outermost is the file.
    let mut open: Vec<Vec<Block>> = vec![Vec::new()];
    for Line { place, text } in lines {
        let mut statement: Option<Block> = None;
        for word in words::split(&text) {
            match (word.quoted, word.text.as_str()) {
                (false, "{") => {
                    // The brace may stand on a line of its own.
                    if let Some(block) = statement.take() {
                        add(&mut open, block);
                    }
                    if open.len() > MAX_DEPTH || open.last().is_none_or(Vec::is_empty) {
                        report
                            .warn(&place, "a block begins here without a keyword before it, or too deep within others");
                        return outermost(open);
                    }
                    open.push(Vec::new());
                }
                (false, "}") => {
                    if let Some(block) = statement.take() {
                        add(&mut open, block);
                    }
                    if !close(&mut open) {
                        report.warn(&place, "there is no block that this brace could end");
                    }
                }
                _ => match &mut statement {
                    Some(block) => block.words.push(word),
                    None => {
                        let (place, keyword) = (place.clone(), word.text);
                        statement = Some(Block { place, keyword, words: Vec::new(), children: Vec::new() });
                    }
                },
            }
        }
        if let Some(block) = statement {
            add(&mut open, block);
        }
    }
    while open.len() > 1 {
        let unclosed = open.iter().rev().nth(1).and_then(|blocks| blocks.last());
        if let Some(block) = unclosed {
            report.warn(&block.place.clone(), format!("block '{}' is not ended by a brace", block.line()));
        }
        close(&mut open);
    }
    outermost(open)
}

fn add(open: &mut [Vec<Block>], block: Block) {
    if let Some(blocks) = open.last_mut() {
        blocks.push(block);
    }
}

/// Ends the innermost block.
fn close(open: &mut Vec<Vec<Block>>) -> bool {
    if open.len() < 2 {
        return false;
    }
    let children = open.pop().unwrap_or_default();
    if let Some(block) = open.last_mut().and_then(|blocks| blocks.last_mut()) {
        block.children = children;
    }
    true
}

fn outermost(mut open: Vec<Vec<Block>>) -> Vec<Block> {
    while close(&mut open) {}
    open.pop().unwrap_or_default()
}
