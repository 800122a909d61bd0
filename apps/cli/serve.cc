// herd serve: the OpenAI-compatible HTTP server.
#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <memory>

#include "common.h"
#include "server/server.h"

namespace cli {
namespace {

struct Flags {
  ModelFlags model;
  std::int64_t kv_tokens = 0;
  std::string alias, key_file, template_file;
  std::vector<std::string> hosts;
  bool log_requests = false;
  herd::EngineOptions engine;
  server::ServerOptions server;
};

herd::Status read_keys(Flags& flags) {
  if (flags.key_file.empty()) return {};
  const auto text = read_file(flags.key_file);
  if (!text.ok()) return text.error();
  auto keys = server::parse_keys(*text);
  if (!keys.ok()) return {keys.error().code, flags.key_file + ": " + keys.error().message};
  flags.server.service.access.keys = std::move(*keys);
  return {};
}

/// The template of the flag or of the file; without one the server cannot chat, and says why.
herd::Status read_template(Flags& flags) {
  server::ServiceOptions& service = flags.server.service;
  const auto file = herd::read_chat_file(flags.model.path);
  std::string text;
  if (file.ok()) {
    service.bos_token = file->bos_token;
    service.eos_token = file->eos_token;
    text = file->chat_template;
  }
  if (!flags.template_file.empty()) {
    auto given = read_file(flags.template_file);
    if (!given.ok()) return given.error();
    text = std::move(*given);
  } else if (!file.ok()) {
    service.no_template = file.error().message;
    return {};
  }
  auto parsed = herd::ChatTemplate::parse(text);
  if (parsed.ok()) {
    service.chat_template = std::move(*parsed);
    service.template_text = std::move(text);
    return {};
  }
  if (!flags.template_file.empty()) return parsed.error();
  service.no_template = "its template: " + parsed.error().message;
  return {};
}

herd::Result<std::unique_ptr<server::Server>> make_server(Flags& flags) {
  if (herd::Status status = read_keys(flags); !status.ok()) return status.error();
  if (herd::Status status = read_template(flags); !status.ok()) return status.error();
  server::ServiceOptions& service = flags.server.service;
  service.access.hosts = flags.hosts;
  service.model_id =
      flags.alias.empty() ? std::filesystem::path(flags.model.path).stem().string() : flags.alias;
  service.max_queue = static_cast<std::size_t>(flags.engine.max_queue);
  flags.engine.slow_reader = service.limits.slow_reader;
  if (flags.log_requests)
    flags.server.log = [](const std::string& line) { std::cerr << line << "\n"; };
  herd::ModelOptions options = flags.model.options();
  if (flags.model.batch_size == 0) options.batch_size = 32;
  options.kv_tokens = flags.kv_tokens;
  auto model = load(flags.model.path, options);
  if (!model.ok()) return model.error();
  auto engine = herd::Engine::create(std::move(*model), flags.engine);
  if (!engine.ok()) return engine.error();
  return server::Server::create(std::move(*engine), flags.server);
}

int run(Flags& flags) {
  auto server = make_server(flags);
  if (!server.ok()) return fail(server.error());
  const std::string& address = flags.server.address;
  std::cerr << fmt::format("herd: {} at http://{}:{}\n", flags.server.service.model_id,
                           address.find(':') == std::string::npos ? address : "[" + address + "]",
                           (*server)->port());
  (*server)->run();
  return kOk;
}

/// An option in seconds.
void add_seconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                 const std::string& help) {
  const double now = std::chrono::duration<double>(value).count();
  app.add_option_function<double>(
         name,
         [&value](const double& seconds) {
           value = std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
         },
         fmt::format("{}, in seconds [{}]", help, now))
      ->check(CLI::Range(0.0, 1e6));
}

template <class T>
CLI::Option* add_count(CLI::App& app, const std::string& name, T& value, const std::string& help,
                       double least = 1, double most = 1e9) {
  return app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
}

void add_network(CLI::App& app, Flags& flags) {
  app.add_option("--host", flags.server.address, "IP address to listen on")->capture_default_str();
  app.add_option("--port", flags.server.port, "0: any that is free")->capture_default_str();
  app.add_option("--alias", flags.alias, "the model's id in requests; else the file's name");
  app.add_option("--api-key-file", flags.key_file,
                 "who may ask: one key a line; each has a prefix cache of its own");
  app.add_flag("--insecure", flags.server.insecure, "listen where others reach it, without a key");
  app.add_option("--allow-host", flags.hosts,
                 "a name this server answers to, besides localhost and IP addresses")
      ->allow_extra_args(false);
  add_chat_template(app, flags.template_file);
  app.add_flag("--log-requests", flags.log_requests,
               "a line on stderr for every request: method, path, status, time; no prompts");
}

void add_limits(CLI::App& app, Flags& flags) {
  server::Limits& l = flags.server.service.limits;
  herd::EngineOptions& e = flags.engine;
  app.add_option("--kv-tokens", flags.kv_tokens,
                 "room for tokens of all sequences; 0: batch size x context, at most a quarter of "
                 "memory")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_count(app, "--prompt-rows", e.prompt_rows,
            "rows of prompts in a step beside running streams; 0: automatic", 0);
  add_count(app, "--max-queue", e.max_queue, "requests that wait; more get 503");
  add_count(app, "--max-queue-tokens", e.max_queue_tokens, "of their prompts, in all", 1, 1e15);
  add_seconds(app, "--queue-wait", e.queue_wait, "longest wait to run");
  add_seconds(app, "--wall-time", e.wall_time, "longest life of a request");
  add_seconds(app, "--slow-reader", l.slow_reader, "for 256 KiB of output, or it is cancelled");
  add_seconds(app, "--drain-timeout", l.drain_time, "for running requests after SIGTERM");
  add_seconds(app, "--header-time", l.header_time, "for a request's header");
  add_seconds(app, "--body-time", l.body_time, "for a request's body");
  add_seconds(app, "--idle-time", l.idle_time, "between two requests of a connection");
  add_count(app, "--max-header-bytes", l.header_bytes, "of a request", 256, 1 << 20);
  add_count(app, "--max-header-fields", l.header_fields, "of a request");
  add_count(app, "--max-body-bytes", l.body_bytes, "of a request");
  add_count(app, "--max-json-depth", l.json_depth, "of a body", 4, 512);
  add_count(app, "--max-connections", l.connections, "open at once");
  add_count(app, "--max-choices", l.choices, "n and best_of", 1, 1024);
  add_count(app, "--max-prompts", l.prompts, "of a request");
  add_count(app, "--max-logprobs", l.logprobs, "logprobs and top_logprobs", 0, 1000);
  add_count(app, "--max-stops", l.stops, "stop strings", 0, 1024);
  add_count(app, "--max-stop-bytes", l.stop_bytes, "of a stop string", 1, 1 << 20);
  add_count(app, "--max-logit-bias", l.logit_biases, "entries of logit_bias", 0, 1024);
  add_count(app, "--max-key-requests", l.key_requests,
            "requests of one API key at once; more get 429; 0: no limit", 0);
}

}  // namespace

void add_serve(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("serve", "OpenAI-compatible HTTP server");
  flags->model.add_path(*command);
  add_network(*command, *flags);
  flags->model.add_device(*command);
  flags->model.add_sizes(*command);
  command->get_option("--batch-size")->description("sequences that run at once; 0: 32");
  add_limits(*command, *flags);
  command->footer(
      "SIGTERM or Ctrl-C: running requests may end, new ones get 503; once more: they are "
      "cancelled.\n"
      "Example:\n"
      "  herd serve -m model.gguf &\n"
      "  curl localhost:8080/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 40, \"temperature\": 0}'");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
