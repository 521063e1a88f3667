//! `docs/API.md` shows the whole public surface, and this test keeps it so: it renders the public
//! items of `src/` with the first paragraph of their documentation and compares.
//!
//! After a change of the interface: `UPDATE_API=1 cargo test --test api`.

use quote::ToTokens;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Attribute, Fields, ImplItem, Item, Meta, TraitItem, UseTree, Visibility};

const HEAD: &str = "\
# The public interface

Every public item of the crate, module by module, with the first paragraph of its documentation.
`cargo doc --all-features --open` has the rest, with examples. Rendered from the sources by
`UPDATE_API=1 cargo test --test api`; the same test fails when this page and the sources differ.
";

#[test]
fn the_page_shows_the_whole_public_surface() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut page = String::from(HEAD);
    Module::read(root.join("src/lib.rs"), "raft_io").render(&mut page, None);
    let path = root.join("docs/API.md");
    if std::env::var_os("UPDATE_API").is_some() {
        fs::write(&path, &page).expect("docs/API.md can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let differs = page.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(new, old)| new != old);
    assert!(
        differs.is_none() && page.len() == found.len(),
        "docs/API.md is out of date, first at {differs:?}; run `UPDATE_API=1 cargo test --test api` and read the change"
    );
}

#[test]
fn a_missing_item_would_be_noticed() {
    let mut page = String::new();
    let source = "/// Does it.\npub fn act(left: u8) -> u8 { left } pub(crate) fn hidden() {} fn private() {}";
    let file = syn::parse_file(source).expect("this is Rust");
    Module { path: "m".into(), file: PathBuf::from("m.rs"), items: file.items }.render(&mut page, None);
    assert!(page.contains("pub fn act(left: u8) -> u8") && page.contains("Does it."), "{page}");
    assert!(!page.contains("hidden") && !page.contains("private"), "{page}");
}

/// A source file as a module.
struct Module {
    path: String,
    file: PathBuf,
    items: Vec<Item>,
}

impl Module {
    fn read(file: PathBuf, path: &str) -> Self {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).items;
        Self { path: path.into(), file, items }
    }

    /// The file of the module `name` declared in this one.
    fn child(&self, name: &str) -> Self {
        let stem = self.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = self.file.parent().expect("a file is in a folder");
        let folder = if matches!(stem, "lib" | "mod") { folder.to_path_buf() } else { folder.join(stem) };
        let flat = folder.join(format!("{name}.rs"));
        let file = if flat.exists() { flat } else { folder.join(name).join("mod.rs") };
        Self::read(file, &format!("{}::{name}", self.path))
    }

    /// Appends this module's public items, or only those `wanted` when the module is private and
    /// its parent re-exports them; then its children.
    fn render(&self, page: &mut String, wanted: Option<&BTreeSet<String>>) {
        let mut body = String::new();
        for item in &self.items {
            render_item(item, wanted, &mut body);
        }
        if wanted.is_none() {
            if !body.is_empty() {
                write!(page, "\n## `{}`\n{body}", self.path).expect("a string takes it");
            }
        } else {
            page.push_str(&body);
        }
        let exported = re_exports(&self.items);
        let (public, private): (Vec<_>, Vec<_>) =
            self.modules().partition(|(_, visibility)| matches!(visibility, Visibility::Public(_)));
        for (name, _) in private {
            let names = wanted.map_or_else(|| exported.clone(), |wanted| wanted & &exported);
            self.child(&name).render(page, Some(&names));
        }
        for (name, _) in public {
            self.child(&name).render(page, wanted);
        }
    }

    fn modules(&self) -> impl Iterator<Item = (String, &Visibility)> {
        self.items.iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && !is_hidden(&module.attrs) => {
                Some((module.ident.to_string(), &module.vis))
            }
            _ => None,
        })
    }
}

/// The names that `pub use` lines make public.
fn re_exports(items: &[Item]) -> BTreeSet<String> {
    fn leaves(tree: &UseTree, names: &mut BTreeSet<String>) {
        match tree {
            UseTree::Path(path) => leaves(&path.tree, names),
            UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
            UseTree::Rename(rename) => drop(names.insert(rename.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, names)),
            UseTree::Glob(_) => {}
        }
    }
    let mut names = BTreeSet::new();
    for item in items {
        if let Item::Use(item) = item {
            if matches!(item.vis, Visibility::Public(_)) {
                leaves(&item.tree, &mut names);
            }
        }
    }
    names
}

/// Not part of the documented surface: hidden, or for tests or the concurrency checker only.
fn is_hidden(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let text = attr.meta.to_token_stream().to_string();
        text == "doc (hidden)" || text == "cfg (test)" || text == "cfg (loom)"
    })
}

fn render_item(item: &Item, wanted: Option<&BTreeSet<String>>, body: &mut String) {
    let is_public = |visibility: &Visibility| matches!(visibility, Visibility::Public(_));
    let in_scope = |name: &syn::Ident| wanted.is_none_or(|wanted| wanted.contains(&name.to_string()));
    let mut item = item.clone();
    let (name, attrs, shown) = match &mut item {
        Item::Struct(item) => {
            hide_private_fields(&mut item.fields);
            (item.ident.clone(), &mut item.attrs, is_public(&item.vis))
        }
        Item::Enum(item) => {
            for variant in &mut item.variants {
                variant.attrs.clear();
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
            (item.ident.clone(), &mut item.attrs, is_public(&item.vis))
        }
        Item::Trait(item) => {
            for inner in &mut item.items {
                if let TraitItem::Fn(function) = inner {
                    function.attrs.clear();
                    function.default = None;
                } else if let TraitItem::Type(inner) = inner {
                    inner.attrs.clear();
                }
            }
            (item.ident.clone(), &mut item.attrs, is_public(&item.vis))
        }
        Item::Fn(item) => {
            item.block.stmts.clear();
            (item.sig.ident.clone(), &mut item.attrs, is_public(&item.vis))
        }
        Item::Type(item) => (item.ident.clone(), &mut item.attrs, is_public(&item.vis)),
        Item::Const(item) => (item.ident.clone(), &mut item.attrs, is_public(&item.vis)),
        Item::Macro(item) => return render_macro(item, wanted, body),
        Item::Impl(item) => return render_impl(item, wanted, body),
        _ => return,
    };
    if !shown || !in_scope(&name) || is_hidden(attrs) {
        return;
    }
    let docs = first_paragraph(attrs);
    attrs.clear();
    write!(body, "\n{docs}\n\n```rust\n{}```\n", pretty(item)).expect("a string takes it");
}

/// The macros that define public types name them in their invocation.
fn render_macro(item: &syn::ItemMacro, wanted: Option<&BTreeSet<String>>, body: &mut String) {
    let path = item.mac.path.to_token_stream().to_string();
    let tokens = item.mac.tokens.to_string();
    if path == "number" {
        let name = tokens.rsplit(' ').next().unwrap_or_default();
        if wanted.is_none_or(|wanted| wanted.contains(name)) {
            write!(body, "\n```rust\npub struct {name}(pub u64);\n```\n").expect("a string takes it");
        }
    } else if path == "transitions" {
        // A comma within the documentation parts what is no name.
        let is_identifier = |name: &str| !name.is_empty() && name.chars().all(char::is_alphanumeric);
        let name = |part: &str| part.rsplit(']').next().unwrap_or_default().trim().to_owned();
        let names: Vec<String> = tokens.split(',').map(name).filter(|name| is_identifier(name)).collect();
        let listed = names.join(",\n    ");
        write!(body, "\n```rust\npub enum Transition {{\n    {listed},\n}}\n```\n").expect("a string takes it");
    }
}

/// The inherent methods and constants that are public.
fn render_impl(item: &syn::ItemImpl, wanted: Option<&BTreeSet<String>>, body: &mut String) {
    let syn::Type::Path(of) = &*item.self_ty else { return };
    let name = of.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
    let in_scope = wanted.is_none_or(|wanted| wanted.contains(&name));
    if item.trait_.is_some() || !in_scope || is_hidden(&item.attrs) {
        return;
    }
    let mut shown = item.clone();
    shown.attrs.clear();
    shown.items.retain_mut(|inner| match inner {
        ImplItem::Fn(function) => {
            let keep = matches!(function.vis, Visibility::Public(_)) && !is_hidden(&function.attrs);
            function.attrs.retain(|attr| attr.path().is_ident("doc"));
            keep_first_paragraph(&mut function.attrs);
            function.block.stmts.clear();
            keep
        }
        ImplItem::Const(constant) => {
            keep_first_paragraph(&mut constant.attrs);
            matches!(constant.vis, Visibility::Public(_))
        }
        _ => false,
    });
    if !shown.items.is_empty() {
        let text = pretty(Item::Impl(shown));
        write!(body, "\n```rust\n{text}```\n").expect("a string takes it");
    }
}

fn hide_private_fields(fields: &mut Fields) {
    match fields {
        Fields::Named(named) => {
            named.named =
                named.named.iter().filter(|field| matches!(field.vis, Visibility::Public(_))).cloned().collect();
        }
        Fields::Unnamed(unnamed) => {
            unnamed.unnamed =
                unnamed.unnamed.iter().filter(|field| matches!(field.vis, Visibility::Public(_))).cloned().collect();
        }
        Fields::Unit => {}
    }
    fields.iter_mut().for_each(|field| field.attrs.clear());
}

fn pretty(item: Item) -> String {
    let text =
        prettyplease::unparse(&syn::File { shebang: None, frontmatter: None, attrs: Vec::new(), items: vec![item] });
    // Bodies were emptied: a signature ends with a semicolon, as in a trait.
    text.replace("\n    {}\n", ";\n").replace(",;", ";").replace(" {}\n", ";\n")
}

fn doc_lines(attrs: &[Attribute]) -> Vec<String> {
    let line = |attr: &Attribute| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    };
    attrs.iter().filter_map(line).collect()
}

fn first_paragraph(attrs: &[Attribute]) -> String {
    let lines = doc_lines(attrs);
    let paragraph = lines.iter().map(|line| line.trim()).take_while(|line| !line.is_empty());
    // Links that only rustdoc can resolve become plain names.
    let text = paragraph.collect::<Vec<_>>().join("\n");
    text.replace("[`", "`").replace("`]", "`")
}

fn keep_first_paragraph(attrs: &mut Vec<Attribute>) {
    let is_end = |attr: &Attribute| doc_lines(std::slice::from_ref(attr)).iter().any(|line| line.trim().is_empty());
    attrs.retain(|attr| attr.path().is_ident("doc"));
    let end = attrs.iter().position(is_end).unwrap_or(attrs.len());
    attrs.truncate(end);
}
