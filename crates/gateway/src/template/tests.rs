use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::*;

fn messages(value: serde_json::Value) -> Vec<Map<String, serde_json::Value>> {
    serde_json::from_value(value).expect("messages are objects")
}

fn render(source: &str) -> Result<String, TemplateError> {
    let special_tokens = [("bos_token".to_owned(), "<s>".to_owned())].into();
    let template = ChatTemplate::new(TemplateSource { special_tokens, ..source.into() })?;
    let messages = messages(json!([{"role": "user", "content": "Hi"}]));
    template.render(&messages, &RenderOptions::default())
}

#[test]
fn blocks_are_trimmed_as_in_transformers() {
    let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if true %}\n{{ m.role }}: \
                  {{ m['content'] }}\n  {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source).as_deref(), Ok("<s>\nuser: Hi\n"));
}

#[test]
fn python_methods_and_loop_controls_work() {
    let source = "{% for x in 'a,b,c'.split(',') %}{% if x == 'c' %}{% break %}{% endif %}\
                  {{ x.upper() }}{% endfor %}{{ ' y '.strip() }}{{ messages[0].get('no', 1) }}\
                  {% for k, v in messages[0].items() %}{{ k }}{% endfor %}";
    assert_eq!(render(source).as_deref(), Ok("ABy1rolecontent"));
}

#[test]
fn generation_tags_are_transparent() {
    let source = "a {%- generation %}\nb{%  endgeneration -%} c{% if generation %}no{% endif %}";
    assert_eq!(render(source).as_deref(), Ok("abc"));
}

#[test]
fn tools_and_documents_are_none() {
    assert_eq!(render("{{ tools is none }}{% if documents %}x{% endif %}").as_deref(), Ok("True"));
}

#[test]
fn a_template_that_raises_is_quoted() {
    let raised = TemplateError::Raised("Only <user> & \"co\"!".into());
    let source = "{{ raise_exception('Only <user> & \"co\"!') }}";
    assert_eq!(render(source), Err(raised));
    let macros = "{% macro no() %}{{ raise_exception('inside') }}{% endmacro %}{{ no() }}";
    assert_eq!(render(macros), Err(TemplateError::Raised("inside".into())));
}

#[test]
fn endless_work_and_endless_output_are_stopped() {
    let work = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let Err(TemplateError::Failed(message)) = render(work) else { panic!("must fail") };
    assert!(message.contains("instructions"), "{message}");
    let output = "{% for a in range(9999) %}{{ 'x' * 1000000 }}{% endfor %}";
    let Err(TemplateError::Failed(message)) = render(output) else { panic!("must fail") };
    assert!(message.contains("bytes"), "{message}");
}

#[test]
fn a_syntax_error_names_its_line() {
    let error = render("fine\n{% if %}").expect_err("does not compile");
    assert!(error.to_string().contains("line 2"), "{error}");
}

fn open(source: &str, content: impl Into<serde_json::Value>) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source.into())?;
    let options = RenderOptions { ending: Ending::OpenMessage, variables: &[] };
    template.render(&messages(json!([{"role": "assistant", "content": content.into()}])), &options)
}

const TURNS: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}";

#[test]
fn the_final_message_can_be_left_open() {
    let trims = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    assert_eq!(open(trims, " Once ").as_deref(), Ok("[Once"));
    assert_eq!(open("[{{ messages[0].content }}]", "Once ").as_deref(), Ok("[Once "));
    assert!(matches!(open("nothing", "Once"), Err(TemplateError::NotContinuable(_))));
    assert!(matches!(open(TURNS, json!(null)), Err(TemplateError::NotContinuable(_))));
}

/// The content may also stand in what the template writes behind it, or be empty.
#[test]
fn the_final_message_ends_where_its_content_does() {
    for content in ["<", "|", "end", "<|end|>", "assistant", "", " ", "a\n"] {
        let prompt = format!("<|assistant|>{content}");
        assert_eq!(open(TURNS, content).as_deref(), Ok(&*prompt), "{content:?}");
    }
}

#[test]
fn the_last_text_part_can_be_left_open() {
    let walks = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
                 {% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}{% endfor %}";
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": ")"}]);
    assert_eq!(open(walks, parts).as_deref(), Ok("(a)()"));
    let typed = "{% for m in messages %}{% for part in m.content %}\
                 {{ part.text if part.type == 'text' }}.{% endfor %}{% endfor %}";
    assert_eq!(open(typed, "a").as_deref(), Ok("a"));
}

#[test]
fn contents_have_the_form_that_the_template_takes() {
    let render = |source: &str, role: &str, content: serde_json::Value| {
        let template = ChatTemplate::new(source.into()).expect("compiles");
        let messages = messages(json!([{"role": role, "content": content}]));
        template.render(&messages, &RenderOptions::default()).expect("renders")
    };
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let strings = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    assert_eq!(render(strings, "user", parts.clone()), "<a\nb>", "joined as in vLLM");
    assert_eq!(render(strings, "user", json!("a")), "<a>");
    let walks = "{% for m in messages %}{% for part in m.content %}<{{ part.type }}>{{ part.text }}\
                 {% endfor %}{% endfor %}";
    assert_eq!(render(walks, "user", parts.clone()), "<text>a<text>b");
    assert_eq!(render(walks, "user", json!("a")), "<text>a", "a string is one part");
    let either = "{% for m in messages %}{% if m.content is string %}S{{ m.content }}{% else %}\
                  {% for part in m.content %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(render(either, "user", parts.clone()), "<a><b>");
    assert_eq!(render(either, "user", json!("a")), "Sa");
    let by_role = "{% for m in messages %}{% if m.role == 'user' %}{% for part in m.content %}\
                   <{{ part.text }}>{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(render(by_role, "user", parts.clone()), "<a><b>");
    assert_eq!(render(by_role, "system", parts), "a\nb");
    assert_eq!(render(by_role, "system", json!("a")), "a");
}

/// As in transformers.
#[test]
fn reasoning_has_every_name_that_templates_know_and_null_is_absent() {
    let source = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|\
                  {{ m.name is defined }};{% endfor %}";
    let template = ChatTemplate::new(source.into()).expect("compiles");
    let messages = messages(json!([
        {"role": "assistant", "reasoning": "a", "name": null},
        {"role": "assistant", "thinking": "b", "reasoning": "c"},
        {"role": "assistant", "reasoning_content": "d", "thinking": "e", "name": "Ann"},
    ]));
    let text = template.render(&messages, &RenderOptions::default());
    assert_eq!(text.as_deref(), Ok("a|a|False;b|b|False;d|e|True;"));
}

#[test]
fn the_jinja_file_wins_over_the_config() {
    let render = |config: serde_json::Value, jinja| {
        let files = TemplateFiles { jinja, config: Some(&config.to_string()) };
        let special_tokens = [("eos_token".to_owned(), "E".to_owned())].into();
        let source = TemplateSource::of_files(&files, special_tokens)?;
        ChatTemplate::new(source)?.render(&[], &RenderOptions::default())
    };
    let string = json!({"chat_template": "string{{ eos_token }}"});
    assert_eq!(render(string.clone(), None).as_deref(), Ok("stringE"));
    assert_eq!(render(string, Some("{{ eos_token }}file")).as_deref(), Ok("Efile"));
    let named = json!({"chat_template": [{"name": "rag", "template": "r"},
                                         {"name": "default", "template": "d"}]});
    assert_eq!(render(named, None).as_deref(), Ok("d"));
    assert_eq!(render(json!({"chat_template": null}), None), Err(TemplateError::Missing));
    let nameless = render(json!({"chat_template": [{"name": "rag", "template": "r"}]}), None);
    assert!(nameless.is_err_and(|error| error.to_string().contains("no \"default\"")));
    let number = render(json!({"chat_template": 3}), None).expect_err("no template");
    assert!(number.to_string().ends_with("expected a string, or a list of names and templates"));
}

/// `cases.json`: what `transformers` renders; made by `tests/reference/make.py`.
#[derive(Deserialize)]
struct Reference {
    special_tokens: BTreeMap<String, String>,
    templates: std::collections::HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    name: String,
    messages: Vec<Map<String, serde_json::Value>>,
    tools: Option<serde_json::Value>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    kwargs: Map<String, serde_json::Value>,
    text: Option<String>,
    error: Option<String>,
    kind: Option<String>,
}

impl Case {
    fn render(&self, reference: &Reference) -> Result<String, TemplateError> {
        let special_tokens = reference.special_tokens.clone();
        let source =
            TemplateSource { text: reference.templates[&self.template].clone(), special_tokens };
        let afternoon = || 1_720_278_245; // 2024-07-06T15:04:05, the `now` of the file
        let template = ChatTemplate::with_clock(source, afternoon)?;
        let tools = self.tools.clone().map(|tools| ("tools".to_owned(), tools));
        let variables: Vec<_> = self.kwargs.clone().into_iter().chain(tools).collect();
        let ending = match (self.add_generation_prompt, self.continue_final_message) {
            (false, false) => Ending::Complete,
            (true, false) => Ending::AssistantTurn,
            (false, true) => Ending::OpenMessage,
            (true, true) => return Err(TemplateError::NotContinuable("both".into())),
        };
        let options = RenderOptions { ending, variables: &variables };
        template.render(&self.messages, &options)
    }

    /// What differs from `transformers`, if anything does.
    fn difference(&self, reference: &Reference) -> Option<String> {
        let rendered = self.render(reference);
        let same = match (&rendered, &self.text, &self.error, self.kind.as_deref()) {
            (Ok(text), Some(expected), ..) => text == expected,
            (Err(TemplateError::Raised(message)), _, Some(expected), Some("raised")) => {
                message == expected
            }
            (Err(_), _, Some(_), Some(kind)) => kind != "raised",
            _ => false,
        };
        let expected = self.text.as_ref().or(self.error.as_ref());
        (!same).then(|| format!("{}: expected {expected:?}, got {rendered:?}", self.name))
    }
}

#[test]
fn the_reference_conversations_render_as_in_transformers() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/chat");
    let file = std::fs::read(folder.join("cases.json")).expect("the reference is there");
    let reference: Reference = serde_json::from_slice(&file).expect("cases are as documented");
    assert!(reference.cases.len() > 100);
    let differing: Vec<&Case> =
        reference.cases.iter().filter(|case| case.difference(&reference).is_some()).collect();
    let names: Vec<&str> = differing.iter().map(|case| &*case.name).collect();
    let details: Vec<_> = differing.iter().filter_map(|case| case.difference(&reference)).collect();
    assert_eq!(names, KNOWN_DIFFERENCES, "{}", details.join("\n"));
}

/// Python's `%` on strings, HTML escapes and rare filters, none of which chat templates use.
const KNOWN_DIFFERENCES: &[&str] = &["percent-format", "filters-escape", "filters-rare"];
