;; A guest whose behaviour is the last letter of the request's path. Tests of
;; several packages use it. Made with: wat2wasm guest.wat
(module
  (import "http_handler" "enable_features" (func $enable (param i32) (result i32)))
  (import "http_handler" "get_config" (func $config (param i32 i32) (result i32)))
  (import "http_handler" "log_enabled" (func $log_enabled (param i32) (result i32)))
  (import "http_handler" "log" (func $log (param i32 i32 i32)))
  (import "http_handler" "get_method" (func $get_method (param i32 i32) (result i32)))
  (import "http_handler" "set_method" (func $set_method (param i32 i32)))
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "get_header_names" (func $names (param i32 i32 i32) (result i64)))
  (import "http_handler" "get_header_values" (func $values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set (param i32 i32 i32 i32 i32)))
  (import "http_handler" "add_header_value" (func $add (param i32 i32 i32 i32 i32)))
  (import "http_handler" "remove_header" (func $remove (param i32 i32 i32)))
  (import "http_handler" "read_body" (func $read (param i32 i32 i32) (result i64)))
  (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
  (import "http_handler" "get_status_code" (func $status (result i32)))
  (import "http_handler" "set_status_code" (func $set_status (param i32)))
  (import "http_handler" "get_source_addr" (func $source (param i32 i32) (result i32)))
  (import "http_handler" "get_protocol_version" (func $protocol (param i32 i32) (result i32)))

  (memory (export "memory") 2)
  (global $case (mut i32) (i32.const 0))
  (global $count (mut i32) (i32.const 0))

  (data (i32.const 0) "x-a")               ;; 0, 3
  (data (i32.const 8) "1")                 ;; 8, 1
  (data (i32.const 9) "2")                 ;; 9, 1
  (data (i32.const 16) "x-drop")           ;; 16, 6
  (data (i32.const 24) "x-why")            ;; 24, 5
  (data (i32.const 32) "kept out")         ;; 32, 8
  (data (i32.const 48) "changed")          ;; 48, 7
  (data (i32.const 64) "/v1/completions?q=1") ;; 64, 19
  (data (i32.const 96) "PUT")              ;; 96, 3
  (data (i32.const 104) "a b")             ;; 104, 3
  (data (i32.const 112) "a\0d\0ab: c")     ;; 112, 7
  (data (i32.const 128) "http://elsewhere/") ;; 128, 17
  (data (i32.const 160) "x-count")         ;; 160, 7
  (data (i32.const 176) "pre")             ;; 176, 3
  (data (i32.const 184) "x-early")         ;; 184, 7
  (data (i32.const 192) "x-ctx")           ;; 192, 5
  (data (i32.const 200) "content-length")  ;; 200, 14
  (data (i32.const 216) "content-type")    ;; 216, 12
  (data (i32.const 232) "text/x")          ;; 232, 6
  (data (i32.const 240) "<")               ;; 240, 1
  (data (i32.const 241) ">")               ;; 241, 1
  (data (i32.const 248) "x-seen")          ;; 248, 6
  (data (i32.const 256) "host")            ;; 256, 4
  (data (i32.const 264) " 1\t")            ;; 264, 3
  (data (i32.const 272) "\tkept out ")     ;; 272, 10

  (func $is (param $c i32) (result i32) (i32.eq (global.get $case) (local.get $c)))
  (func $deep (param $n i32) (result i32)
    (i32.add (call $deep (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))

  (func (export "handle_request") (result i64)
    (local $n i32) (local $r i64)
    (local.set $n (call $get_uri (i32.const 1024) (i32.const 1024)))
    (global.set $case (i32.load8_u (i32.add (i32.const 1023) (local.get $n))))
    ;; b: answers itself
    (if (call $is (i32.const 98)) (then
      (call $set_status (i32.const 403))
      (call $set (i32.const 1) (i32.const 24) (i32.const 5) (i32.const 8) (i32.const 1))
      (call $write (i32.const 1) (i32.const 32) (i32.const 8))
      (return (i64.const 0))))
    ;; c: changes the header
    (if (call $is (i32.const 99)) (then
      (call $set (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 1))
      (call $add (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 9) (i32.const 1))
      (call $remove (i32.const 0) (i32.const 16) (i32.const 6))
      (call $set (i32.const 0) (i32.const 200) (i32.const 14) (i32.const 8) (i32.const 1))
      ;; it sees what it has done: two values, "1\0" "2\0"
      (if (i64.ne (call $values (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 2048) (i32.const 64)) (i64.const 0x200000004)) (then unreachable))
      (if (i32.ne (i32.load (i32.const 2048)) (i32.const 0x00320031)) (then unreachable))
      (if (i64.ne (call $values (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 2048) (i32.const 64)) (i64.const 0)) (then unreachable))))
    ;; d: replaces the body
    (if (call $is (i32.const 100)) (then
      (call $write (i32.const 0) (i32.const 48) (i32.const 4))
      (call $write (i32.const 0) (i32.const 52) (i32.const 3))))
    ;; e: becomes another call
    (if (call $is (i32.const 101)) (then
      (call $set_uri (i32.const 64) (i32.const 19))
      (call $set_method (i32.const 96) (i32.const 3))
      (if (i32.ne (call $get_method (i32.const 2048) (i32.const 9)) (i32.const 3)) (then unreachable))
      (if (i32.ne (call $get_uri (i32.const 2048) (i32.const 99)) (i32.const 19)) (then unreachable))))
    ;; f: traps
    (if (call $is (i32.const 102)) (then
      (call $set (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 1))
      unreachable))
    ;; g: does not end
    (if (call $is (i32.const 103)) (then (loop $l (br $l))))
    ;; h: a buffer outside of its memory
    (if (call $is (i32.const 104)) (then (drop (call $get_uri (i32.const 0xfffffff0) (i32.const 0xffffffff)))))
    ;; i: a text outside of its memory
    (if (call $is (i32.const 105)) (then (call $log (i32.const 0) (i32.const 1024) (i32.const 0xffffffff))))
    ;; j: a name that is none
    (if (call $is (i32.const 106)) (then (call $set (i32.const 0) (i32.const 104) (i32.const 3) (i32.const 8) (i32.const 1))))
    ;; k: a value with a line break
    (if (call $is (i32.const 107)) (then (call $set (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 112) (i32.const 7))))
    ;; l, m: no status
    (if (call $is (i32.const 108)) (then (call $set_status (i32.const 999))))
    (if (call $is (i32.const 109)) (then (call $set_status (i32.const 0))))
    ;; n: a body without an end
    (if (call $is (i32.const 110)) (then (loop $l (call $write (i32.const 0) (i32.const 0) (i32.const 65536)) (br $l))))
    ;; o: a header without an end
    (if (call $is (i32.const 111)) (then (loop $l (call $add (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 1)) (br $l))))
    ;; p: a trailer
    (if (call $is (i32.const 112)) (then (call $set (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 1))))
    ;; q: an unknown kind
    (if (call $is (i32.const 113)) (then (drop (call $names (i32.const 9) (i32.const 0) (i32.const 0)))))
    ;; r: nowhere to read to
    (if (call $is (i32.const 114)) (then (drop (call $read (i32.const 0) (i32.const 0) (i32.const 0)))))
    ;; s: no method
    (if (call $is (i32.const 115)) (then (call $set_method (i32.const 96) (i32.const 0))))
    ;; t: no path
    (if (call $is (i32.const 116)) (then (call $set_uri (i32.const 128) (i32.const 17))))
    ;; u: calls itself
    (if (call $is (i32.const 117)) (then (drop (call $deep (i32.const 0)))))
    ;; v: wants the answer
    (if (call $is (i32.const 118)) (then
      (drop (call $enable (i32.const 2)))
      (return (i64.const 0x700000001))))
    ;; x: no name
    (if (call $is (i32.const 120)) (then (drop (call $values (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))))
    ;; y: counts its calls, in memory and in a global
    (if (call $is (i32.const 121)) (then
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store8 (i32.const 9000) (i32.add (i32.load8_u (i32.const 9000)) (i32.const 1)))
      (i32.store8 (i32.const 9001) (i32.add (i32.const 48) (i32.add (global.get $count) (i32.load8_u (i32.const 9000)))))
      (call $set (i32.const 0) (i32.const 160) (i32.const 7) (i32.const 9001) (i32.const 1))))
    ;; z: takes all memory that it can have
    (if (call $is (i32.const 122)) (then (loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))))
    ;; A: does not end, and lets the host do the work
    (if (call $is (i32.const 65)) (then (loop $l (drop (call $names (i32.const 0) (i32.const 2048) (i32.const 60000))) (br $l))))
    ;; B: begins the answer
    (if (call $is (i32.const 66)) (then
      (call $write (i32.const 1) (i32.const 176) (i32.const 3))
      (call $set (i32.const 1) (i32.const 184) (i32.const 7) (i32.const 8) (i32.const 1))
      (call $set (i32.const 1) (i32.const 216) (i32.const 12) (i32.const 232) (i32.const 6))))
    ;; F: gives back the body that it reads in pieces of 100 bytes, in brackets
    (if (call $is (i32.const 70)) (then
      (call $write (i32.const 0) (i32.const 240) (i32.const 1))
      (block $done (loop $l
        (local.set $r (call $read (i32.const 0) (i32.const 2048) (i32.const 100)))
        (call $write (i32.const 0) (i32.const 2048) (i32.wrap_i64 (local.get $r)))
        (br_if $done (i64.ne (i64.shr_u (local.get $r) (i64.const 32)) (i64.const 0)))
        (br $l)))
      (call $write (i32.const 0) (i32.const 241) (i32.const 1))))
    ;; G: writes down its configuration, where the request is from, and its protocol
    (if (call $is (i32.const 71)) (then
      (call $log (i32.const 0) (i32.const 2048) (call $config (i32.const 2048) (i32.const 999)))
      (call $log (i32.const 1) (i32.const 2048) (call $source (i32.const 2048) (i32.const 999)))
      (call $log (i32.const 2) (i32.const 2048) (call $protocol (i32.const 2048) (i32.const 999)))
      (if (call $log_enabled (i32.const 3)) (then unreachable))
      (if (i32.eqz (call $log_enabled (i32.const 0))) (then unreachable))))
    ;; H: floods the log
    (if (call $is (i32.const 72)) (then
      (local.set $n (i32.const 10000))
      (loop $l
        (call $log (i32.const 0) (i32.const 48) (i32.const 7))
        (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
    ;; I: what comes back of a buffer that is too small is how large it has to be
    (if (call $is (i32.const 73)) (then
      (i32.store8 (i32.const 2048) (i32.const 42))
      (if (i32.le_u (call $get_uri (i32.const 2048) (i32.const 1)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 2048)) (i32.const 42)) (then unreachable))))
    ;; K: blanks around values
    (if (call $is (i32.const 75)) (then
      (call $set (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 264) (i32.const 3))
      (call $add (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 264) (i32.const 1))
      (call $set (i32.const 1) (i32.const 24) (i32.const 5) (i32.const 272) (i32.const 10))
      ;; it sees what a reader would: two values, "1\0" "\0"
      (if (i64.ne (call $values (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 2048) (i32.const 64)) (i64.const 0x200000003)) (then unreachable))
      (if (i32.ne (i32.load16_u (i32.const 2048)) (i32.const 0x0031)) (then unreachable))))
    (i64.const 1))

  (func (export "handle_response") (param $ctx i32) (param $err i32)
    (local $n i32)
    ;; v: a header of its context, another status, the body in brackets
    (if (call $is (i32.const 118)) (then
      (if (local.get $err) (then (call $log (i32.const 2) (i32.const 32) (i32.const 8)) (return)))
      (i32.store8 (i32.const 2048) (i32.add (i32.const 48) (local.get $ctx)))
      (call $set (i32.const 1) (i32.const 192) (i32.const 5) (i32.const 2048) (i32.const 1))
      (call $set_status (i32.add (call $status) (i32.const 1)))
      (call $write (i32.const 1) (i32.const 240) (i32.const 1))
      (local.set $n (i32.wrap_i64 (call $read (i32.const 1) (i32.const 2048) (i32.const 60000))))
      (call $write (i32.const 1) (i32.const 2048) (local.get $n))
      (call $write (i32.const 1) (i32.const 241) (i32.const 1))))
    ;; w: too late for that
    (if (call $is (i32.const 119)) (then (call $set_status (i32.const 201))))
    ;; C: traps
    (if (call $is (i32.const 67)) (then unreachable))
    ;; J: does not end
    (if (call $is (i32.const 74)) (then (loop $l (br $l))))
    ;; D: writes down what it still sees of the request, and what it sees of the answer
    (if (call $is (i32.const 68)) (then
      (call $log (i32.const 0) (i32.const 2048) (call $get_method (i32.const 2048) (i32.const 999)))
      (call $log (i32.const 0) (i32.const 2048) (call $get_uri (i32.const 2048) (i32.const 999)))
      (call $log (i32.const 0) (i32.const 2048) (i32.wrap_i64 (call $values (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 2048) (i32.const 999))))
      (call $log (i32.const 0) (i32.const 2048) (i32.wrap_i64 (call $values (i32.const 1) (i32.const 248) (i32.const 6) (i32.const 2048) (i32.const 999))))
      (i32.store8 (i32.const 2048) (i32.add (i32.const 48) (local.get $err)))
      (i32.store8 (i32.const 2049) (i32.add (i32.const 48) (i32.div_u (call $status) (i32.const 100))))
      (call $log (i32.const 0) (i32.const 2048) (i32.const 2))))
    ;; E: the answer's body, which it has not asked for
    (if (call $is (i32.const 69)) (then (drop (call $read (i32.const 1) (i32.const 2048) (i32.const 100))))))
)
