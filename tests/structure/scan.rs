//! Reads Rust text well enough for the structure test: comments and literals are blanked out, braces counted.

/// A source file: its text, and its code with comments and literals turned into spaces, line by line alike.
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
}

pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

pub struct Unsafe {
    pub line: usize,
    /// A block, and not a function, impl or trait.
    pub is_block: bool,
    pub has_comment: bool,
    pub statements: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into(), code: blank(text) }
    }

    /// "src/wal/frame.rs" is the module "wal::frame".
    pub fn module(&self) -> String {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        path.replace('/', "::")
    }

    fn line_of(&self, offset: usize) -> usize {
        1 + self.code[..offset].matches('\n').count()
    }

    /// Offsets of a word that stands by itself in the code.
    fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let bytes = self.code.as_bytes();
        self.code.match_indices(word).map(|(offset, _)| offset).filter(move |offset| {
            let before = offset.checked_sub(1).and_then(|index| bytes.get(index));
            !is_part(before) && !is_part(bytes.get(offset + word.len()))
        })
    }
}

/// The code without comments and without what stands in literals. Newlines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut index = 0;
    while index < bytes.len() {
        let end = literal_end(bytes, index);
        for byte in &mut code[index..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        index = end.max(index + 1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment or literal that begins at `start` ends; `start` itself when none begins there.
fn literal_end(bytes: &[u8], start: usize) -> usize {
    let rest = &bytes[start..];
    let within_word = start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] == b'_');
    if rest.starts_with(b"//") {
        return start + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, start);
    }
    if !within_word && (rest[0] == b'r' || rest.starts_with(b"br")) {
        let prefix = if rest[0] == b'b' { 2 } else { 1 };
        let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let body = prefix + hashes + 1;
            let length = rest[body..].windows(close.len()).position(|window| window == close);
            return start + length.map_or(rest.len(), |length| body + length + close.len());
        }
    }
    match rest[0] {
        b'"' => start + quoted_length(rest, b'"'),
        // A lifetime has no closing quote behind one character.
        b'\'' if rest.get(1) == Some(&b'\\') => start + quoted_length(rest, b'\''),
        b'\'' => {
            let width = rest.get(1).map_or(1, |byte| if byte.is_ascii() { 1 } else { byte.leading_ones() as usize });
            if rest.get(1 + width) == Some(&b'\'') { start + width + 2 } else { start }
        }
        _ => start,
    }
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut index = 1;
    while index < rest.len() {
        match rest[index] {
            b'\\' => index += 2,
            byte if byte == quote => return index + 1,
            _ => index += 1,
        }
    }
    rest.len()
}

/// Block comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut index) = (0, start);
    while index < bytes.len() {
        if bytes[index..].starts_with(b"/*") {
            depth += 1;
            index += 2;
        } else if bytes[index..].starts_with(b"*/") {
            depth -= 1;
            index += 2;
            if depth == 0 {
                return index;
            }
        } else {
            index += 1;
        }
    }
    bytes.len()
}

/// Every path of ours that the code names, with its line: in `use` lines and elsewhere; `forebay_sys` is "sys".
pub fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (word, base) in [("crate", ""), ("forebay", ""), ("forebay_sys", "sys::"), ("super", "")] {
        for offset in source.words(word) {
            let tail = &source.code[offset + word.len()..];
            let Some(tail) = tail.strip_prefix("::").filter(|_| !source.code[..offset].ends_with("::")) else {
                continue;
            };
            let paths = if word == "super" { relative(source, offset, tail) } else { expand(base, tail) };
            found.extend(paths.into_iter().map(|path| (source.line_of(offset), path)));
        }
    }
    found
}

/// The paths behind `super::`, as seen from the root. Inside an inline module the first ones lead to this file.
fn relative(source: &Source, offset: usize, mut tail: &str) -> Vec<String> {
    let mut levels = 1;
    while let Some(rest) = tail.strip_prefix("super::") {
        (levels, tail) = (levels + 1, rest);
    }
    let covers = |start: &usize| {
        let open = source.code[*start..].find(['{', ';']).map_or(*start, |at| start + at);
        source.code[open..].starts_with('{') && open < offset && block_end(&source.code, open) > offset
    };
    let inline = source.words("mod").filter(covers).count();
    let module = source.module();
    let mut parts: Vec<&str> = module.split("::").collect();
    parts.truncate(parts.len().saturating_sub(usize::saturating_sub(levels, inline)));
    if inline > levels {
        return Vec::new();
    }
    expand(&parts.iter().map(|part| format!("{part}::")).collect::<String>(), tail)
}

/// The paths of a use tree: "a::{b, c::d}" gives "a::b" and "a::c::d".
fn expand(base: &str, tail: &str) -> Vec<String> {
    let tail = tail.trim_start();
    if let Some(inner) = tail.strip_prefix('{') {
        return branches(inner).into_iter().flat_map(|branch| expand(base, branch)).collect();
    }
    let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tail.len());
    let (name, rest) = tail.split_at(end);
    match rest.strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => expand(&format!("{base}{name}::"), rest),
        _ if name.is_empty() || name == "self" => vec![base.trim_end_matches("::").to_owned()],
        _ => vec![format!("{base}{name}")],
    }
}

/// The comma-separated branches up to the brace that closes them.
fn branches(inner: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (index, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                found.push(&inner[start..index]);
                start = index + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|branch| !branch.trim().is_empty());
    found
}

/// Every function with a body.
pub fn functions(source: &Source) -> Vec<Function> {
    let mut found = Vec::new();
    for offset in source.words("fn") {
        let tail = source.code[offset + 2..].trim_start();
        let name: String = tail.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let open = source.code[offset..].find('{').map(|at| offset + at);
        let end = source.code[offset..].find(';').map(|at| offset + at);
        let Some(open) =
            open.filter(|open| !name.is_empty() && end.is_none_or(|end| *open < end || in_array(source, offset, end)))
        else {
            continue;
        };
        let body = &source.code[open..block_end(&source.code, open)];
        let line = source.line_of(offset);
        found.push(Function { name, line, lines: source.line_of(open) - line + body.matches('\n').count() + 1 });
    }
    found
}

/// The semicolon at `end` belongs to an array type "[u8; 4]" of the signature and does not end it.
fn in_array(source: &Source, offset: usize, end: usize) -> bool {
    let before = &source.code[offset..end];
    before.matches('[').count() > before.matches(']').count()
}

/// Every `unsafe` in the code: blocks, functions, impls, traits.
pub fn unsafe_blocks(source: &Source) -> Vec<Unsafe> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for offset in source.words("unsafe") {
        let tail = &source.code[offset + "unsafe".len()..];
        // `#[unsafe(no_mangle)]` and pointer types are for clippy.
        if tail.starts_with('(') {
            continue;
        }
        let is_block = tail.trim_start().starts_with('{');
        let open = offset + source.code[offset..].find('{').unwrap_or(0);
        let body = &source.code[open..block_end(&source.code, open)];
        let line = source.line_of(offset);
        let statements = body.split(';').filter(|part| part.chars().any(char::is_alphanumeric)).count();
        found.push(Unsafe { line, is_block, has_comment: commented(&lines, line), statements });
    }
    found
}

/// A SAFETY comment stands on the line itself, or above the statement that the line belongs to.
fn commented(lines: &[&str], line: usize) -> bool {
    for text in lines[..line - 1].iter().rev().map(|text| text.trim()) {
        if text.starts_with("//") {
            if text.contains("SAFETY:") {
                return true;
            }
        } else if text.ends_with([';', '{', '}']) {
            break;
        }
    }
    lines[line - 1].contains("SAFETY:")
}

/// Past the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (index, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}
