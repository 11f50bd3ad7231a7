//! A typed client as a user has it (async-openai) against the real binary and the embedded model.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionRequestAssistantMessageArgs, ChatCompletionRequestMessage,
    ChatCompletionRequestSystemMessageArgs, ChatCompletionRequestUserMessageArgs,
    ChatCompletionStreamOptions, CreateChatCompletionRequestArgs, FinishReason, Prompt,
};
use async_openai::types::completions::CreateCompletionRequestArgs;
use futures_util::StreamExt;

use crate::server::Server;

thread_local! {
    /// Each test runs on a thread of its own, so each has a server, which ends with it.
    static SERVER: Server = Server::start(&[]);
}

fn client() -> Client<OpenAIConfig> {
    let config = OpenAIConfig::new().with_api_base(format!("{}/v1", SERVER.with(Server::url)));
    Client::with_config(config.with_api_key("unused"))
}

fn system(text: &str) -> ChatCompletionRequestMessage {
    let message = ChatCompletionRequestSystemMessageArgs::default().content(text).build();
    message.expect("a valid message").into()
}

fn user(text: &str) -> ChatCompletionRequestMessage {
    let message = ChatCompletionRequestUserMessageArgs::default().content(text).build();
    message.expect("a valid message").into()
}

fn assistant(text: &str) -> ChatCompletionRequestMessage {
    let message = ChatCompletionRequestAssistantMessageArgs::default().content(text).build();
    message.expect("a valid message").into()
}

fn question(text: &str) -> CreateChatCompletionRequestArgs {
    let mut request = CreateChatCompletionRequestArgs::default();
    request.model("demo").messages([user(text)]).temperature(0.0).max_completion_tokens(64u32);
    request
}

async fn answer(request: &mut CreateChatCompletionRequestArgs) -> String {
    let request = request.build().expect("a valid request");
    let response = client().chat().create(request).await.expect("an answer");
    response.choices[0].message.content.clone().expect("text")
}

#[tokio::test]
async fn chat_answers_real_questions() {
    assert!(answer(&mut question("What is the capital of France?")).await.contains("Paris"));
    assert!(answer(&mut question("What is 17 + 25?")).await.contains("42"));
    let mut memory = question("");
    memory.messages([
        system("You are a helpful assistant."),
        user("My name is Ada."),
        assistant("Nice to meet you, Ada."),
        user("What is my name?"),
    ]);
    assert!(answer(&mut memory).await.contains("Ada"));
}

#[tokio::test]
async fn a_stream_says_the_same_as_one_response() {
    let whole = answer(&mut question("What is tensor parallelism?")).await;
    let request = question("What is tensor parallelism?")
        .stream_options(ChatCompletionStreamOptions {
            include_usage: Some(true),
            include_obfuscation: None,
        })
        .build()
        .expect("a valid request");
    let mut stream = client().chat().create_stream(request).await.expect("a stream");
    let (mut text, mut finish, mut usage) = (String::new(), None, None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("a chunk");
        if let Some(choice) = chunk.choices.first() {
            assert!(finish.is_none(), "a chunk after the finish reason");
            text += choice.delta.content.as_deref().unwrap_or_default();
            finish = choice.finish_reason;
        }
        usage = chunk.usage.or(usage);
    }
    assert_eq!(text, whole);
    assert_eq!(finish, Some(FinishReason::Stop));
    let usage = usage.expect("usage was asked for");
    assert!(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

#[tokio::test]
async fn logprobs_come_with_every_token() {
    let request =
        question("What is 2 + 2?").logprobs(true).top_logprobs(3u8).build().expect("valid");
    let response = client().chat().create(request).await.expect("an answer");
    let choice = &response.choices[0];
    let logprobs = choice.logprobs.as_ref().expect("logprobs").content.as_ref().expect("content");
    let usage = response.usage.expect("usage");
    assert_eq!(logprobs.len(), usage.completion_tokens as usize);
    for entry in logprobs {
        assert_eq!(entry.top_logprobs.len(), 3);
        assert!(entry.logprob <= 0.0);
        assert_eq!(entry.top_logprobs[0].token, entry.token, "greedy takes the likeliest");
    }
    // The last entry is the end-of-turn token, which has no text.
    let bytes = logprobs.iter().flat_map(|entry| entry.bytes.clone().expect("bytes"));
    let bytes: Vec<u8> = bytes.collect();
    let text = choice.message.content.as_ref().expect("text");
    assert!(bytes.starts_with(text.as_bytes()), "{bytes:?} does not start with {text:?}");
}

#[tokio::test]
async fn n_choices_and_stop_strings() {
    let request = question("What is the capital of Japan?")
        .n(3u8)
        .temperature(1.0)
        .seed(7)
        .build()
        .expect("valid");
    let response = client().chat().create(request).await.expect("an answer");
    let mut indices: Vec<_> = response.choices.iter().map(|choice| choice.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2]);

    let whole = answer(&mut question("What is the capital of Japan?")).await;
    let (before, _) = whole.split_once("ky").expect("Tokyo");
    assert_eq!(answer(question("What is the capital of Japan?").stop("ky")).await, before);
}

#[tokio::test]
async fn completions_take_text_and_token_ids() {
    let prompt =
        "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n";
    let body = serde_json::json!({ "prompt": prompt, "add_special_tokens": false });
    let tokens = SERVER.with(|server| server.post("/tokenize", &body));
    let tokens: Vec<u32> =
        serde_json::from_value(tokens.json()["tokens"].clone()).expect("token ids");
    let mut texts = Vec::new();
    for prompt in [Prompt::String(prompt.to_owned()), Prompt::IntegerArray(tokens)] {
        let request = CreateCompletionRequestArgs::default()
            .model("demo")
            .prompt(prompt)
            .temperature(0.0)
            .max_tokens(16u32)
            .build()
            .expect("a valid request");
        let response = client().completions().create(request).await.expect("a completion");
        texts.push(response.choices[0].text.clone());
    }
    assert!(texts[0].contains("Rome"), "{texts:?}");
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn errors_reach_the_client_typed() {
    let request = question("Hello").model("no-such-model").build().expect("valid");
    let error = client().chat().create(request).await.expect_err("unknown model");
    let OpenAIError::ApiError(error) = error else { panic!("{error}") };
    assert_eq!(error.status_code.as_u16(), 404);
    assert_eq!(error.api_error.code.as_deref(), Some("model_not_found"));

    let mut too_hot = question("Hello");
    let request = too_hot.temperature(2.5).build().expect("valid for the client");
    let error = client().chat().create(request).await.expect_err("out of range");
    let OpenAIError::ApiError(error) = error else { panic!("{error}") };
    assert_eq!(error.api_error.param.as_deref(), Some("temperature"));
    assert!(error.api_error.message.contains("2.5"), "{}", error.api_error.message);
}

#[tokio::test]
async fn models_are_listed() {
    let models = client().models().list().await.expect("a list");
    assert_eq!(models.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["demo"]);
}
