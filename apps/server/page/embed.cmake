# cmake -DOUT=FILE -P embed.cmake: page.html with page.css and page.js put in, as a C++ file, with
# the content security policy that lets these two run and nothing else. Only CMake is needed.
set(folder ${CMAKE_CURRENT_LIST_DIR})
set(most_bytes 40000)

# SHA-256 of a text, in base64 as policies spell it.
function(hash_of text result)
  set(digits "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
  string(SHA256 hex "${text}")
  string(APPEND hex "00")  # 22 times three hex digits, each two of base64
  set(out "")
  foreach(at RANGE 0 63 3)
    string(SUBSTRING ${hex} ${at} 3 three)
    math(EXPR high "0x${three} >> 6")
    math(EXPR low "0x${three} & 63")
    string(SUBSTRING ${digits} ${high} 1 high)
    string(SUBSTRING ${digits} ${low} 1 low)
    string(APPEND out ${high}${low})
  endforeach()
  string(SUBSTRING ${out} 0 43 out)
  set(${result} "sha256-${out}=" PARENT_SCOPE)
endfunction()

file(READ ${folder}/page.html html)
file(READ ${folder}/page.css css)
file(READ ${folder}/page.js js)
hash_of("${css}" css_hash)
hash_of("${js}" js_hash)
string(REPLACE "@CSS@" "${css}" html "${html}")
string(REPLACE "@JS@" "${js}" html "${html}")
string(LENGTH "${html}" bytes)
if(bytes GREATER most_bytes)
  message(FATAL_ERROR "the page has ${bytes} bytes, the limit is ${most_bytes}")
endif()

file(WRITE ${OUT} "// Made by apps/server/page/embed.cmake.
#include \"server/page.h\"

namespace server {

const std::string_view kPagePolicy =
    \"default-src 'none'; script-src '${js_hash}'; style-src '${css_hash}'; connect-src 'self'; \"
    \"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \"
    \"require-trusted-types-for 'script'; trusted-types 'none'\";

const std::string_view kPage = R\"page(${html})page\";

}  // namespace server
")
