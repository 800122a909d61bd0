#include "page.h"

namespace server {

const std::string_view kPagePolicy =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";

const std::string_view kPage = R"(<!doctype html>
<html lang="en"><meta charset="utf-8"><title>herd</title>
<h1>herd</h1>
<p>An OpenAI-compatible server: <code>/v1/chat/completions</code>, <code>/v1/completions</code>,
<code>/v1/models</code>, <code>/stats</code>, <code>/metrics</code>, <code>/health</code>.</p>
</html>
)";

}  // namespace server
