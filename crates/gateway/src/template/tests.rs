use std::path::PathBuf;

use serde_json::json;

use super::*;

fn messages(value: serde_json::Value) -> Vec<Map<String, serde_json::Value>> {
    serde_json::from_value(value).expect("messages are objects")
}

fn render(source: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, vec![("bos_token".into(), "<s>".into())])?;
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

#[test]
fn the_final_message_can_be_left_open() {
    let source = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    let template = ChatTemplate::new(source, vec![]).expect("compiles");
    let options = RenderOptions { ending: Ending::OpenMessage, variables: &[] };
    let open = |content| {
        template.render(&messages(json!([{"role": "user", "content": content}])), &options)
    };
    assert_eq!(open(" Once ").as_deref(), Ok("[Once"));
    let keeps = ChatTemplate::new("[{{ messages[0].content }}]", vec![]).expect("compiles");
    let kept = keeps.render(&messages(json!([{"content": "Once "}])), &options);
    assert_eq!(kept.as_deref(), Ok("[Once "));
    let loses = ChatTemplate::new("nothing", vec![]).expect("compiles");
    let lost = loses.render(&messages(json!([{"content": "Once"}])), &options);
    assert_eq!(lost, Err(TemplateError::NotContinuable));
}

#[test]
fn the_jinja_file_wins_over_the_config() {
    let render = |config: serde_json::Value, file| {
        ChatTemplate::from_files(Some(&config.to_string()), file)
            .map(|template| template.map(|t| t.render(&[], &RenderOptions::default())))
    };
    let string = json!({"chat_template": "string{{ eos_token }}", "eos_token": {"content": "E"}});
    assert_eq!(render(string.clone(), None), Ok(Some(Ok("stringE".into()))));
    assert_eq!(render(string, Some("{{ eos_token }}file")), Ok(Some(Ok("Efile".into()))));
    let named = json!({"chat_template": [{"name": "rag", "template": "r"},
                                         {"name": "default", "template": "d"}]});
    assert_eq!(render(named, None), Ok(Some(Ok("d".into()))));
    assert_eq!(render(json!({"chat_template": null}), None), Ok(None));
    let nameless = render(json!({"chat_template": [{"name": "rag", "template": "r"}]}), None);
    assert!(nameless.is_err_and(|error| error.to_string().contains("default")));
    assert!(render(json!({"chat_template": 3}), None).is_err());
}

/// `cases.json`: what `transformers` renders; made by `tests/reference/make.py`.
#[derive(Deserialize)]
struct Reference {
    special_tokens: std::collections::HashMap<String, String>,
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
        let special_tokens = reference.special_tokens.clone().into_iter().collect();
        let source = &reference.templates[&self.template];
        let afternoon = || 1_720_278_245; // 2024-07-06T15:04:05, the `now` of the file
        let template = ChatTemplate::with_clock(source, special_tokens, afternoon)?;
        let tools = self.tools.clone().map(|tools| ("tools".to_owned(), tools));
        let variables: Vec<_> = self.kwargs.clone().into_iter().chain(tools).collect();
        let ending = match (self.add_generation_prompt, self.continue_final_message) {
            (false, false) => Ending::Complete,
            (true, false) => Ending::AssistantTurn,
            (false, true) => Ending::OpenMessage,
            (true, true) => return Err(TemplateError::NotContinuable),
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
