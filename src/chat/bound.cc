#include "chat/failure.h"
#include "chat/library.h"

namespace herd::chat {

Bound::Bound(std::string_view what, const Arguments& arguments,
             std::initializer_list<std::string_view> parameters, std::size_t required)
    : what_(what) {
  const std::size_t count = arguments.positional.size();
  if (count > parameters.size())
    wrong("{} takes at most {} argument(s), {} given", what, parameters.size(), count);
  for (std::size_t i = 0; i < count; ++i) values_[i] = arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    std::size_t i = 0;
    while (i < parameters.size() && parameters.begin()[i] != name) ++i;
    if (i == parameters.size()) wrong("{} takes no keyword argument '{}'", what, name);
    if (values_[i]) wrong("{} got two values for '{}'", what, name);
    values_[i] = value;
  }
  for (std::size_t i = 0; i < required; ++i)
    if (!values_[i]) wrong("{} needs {} argument(s)", what, required);
}

bool Bound::flag(std::size_t i, bool fallback) const {
  return has(i) ? truthy(*values_[i]) : fallback;
}
Int Bound::integer(std::size_t i, Int fallback) const {
  if (!has(i)) return fallback;
  if (values_[i]->is_undefined()) fail_undefined(*values_[i]);
  if (!values_[i]->is_integral())
    wrong("{}: an integer is required, not {}", what_, type_name(*values_[i]));
  return values_[i]->integer();
}
std::string_view Bound::text(std::size_t i, std::string_view fallback) const {
  if (!has(i)) return fallback;
  if (values_[i]->is_undefined()) fail_undefined(*values_[i]);
  if (!values_[i]->is_str()) wrong("{}: a str is required, not {}", what_, type_name(*values_[i]));
  return values_[i]->text();
}

}  // namespace herd::chat
