;; A guest that lets the host work. It does 7,000 times, which is less than the
;; checks of a slice, what the last letter of the request's path stands for. Made
;; with: wat2wasm toil.wat
(module
  (import "http_handler" "get_uri" (func $get_uri (param i32 i32) (result i32)))
  (import "http_handler" "get_header_names" (func $names (param i32 i32 i32) (result i64)))
  (import "http_handler" "get_header_values" (func $values (param i32 i32 i32 i32 i32) (result i64)))
  (import "http_handler" "set_header_value" (func $set (param i32 i32 i32 i32 i32)))
  (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
  (import "http_handler" "set_method" (func $set_method (param i32 i32)))
  (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $print (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1000)
  (global $case (mut i32) (i32.const 0))
  (data (i32.const 0) "host")
  (func $is (param $c i32) (result i32) (i32.eq (global.get $case) (local.get $c)))
  (func (export "handle_request") (result i64) (local $n i32)
    (global.set $case (i32.load8_u (i32.add (i32.const 1023) (call $get_uri (i32.const 1024) (i32.const 1024)))))
    ;; n: the header's names; v: the values of one
    (loop $again
      (if (call $is (i32.const 110)) (then (drop (call $names (i32.const 0) (i32.const 4096) (i32.const 60000)))))
      (if (call $is (i32.const 118)) (then (drop (call $values (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 4096) (i32.const 60000)))))
      ;; w: 8 KiB more of a body; W: 40 MB at once; p: prints nothing, a thousand times; r: 64 KiB at random
      (if (call $is (i32.const 119)) (then (call $write (i32.const 0) (i32.const 4096) (i32.const 8192))))
      (if (call $is (i32.const 87)) (then (call $write (i32.const 0) (i32.const 4096) (i32.const 40000000)) (return (i64.const 1))))
      (if (call $is (i32.const 112)) (then (drop (call $print (i32.const 1) (i32.const 65536) (i32.const 1000) (i32.const 8)))))
      (if (call $is (i32.const 114)) (then (drop (call $random (i32.const 65536) (i32.const 65536)))))
      ;; H, U, M: a header, a URI, a method of 60 MB
      (if (call $is (i32.const 72)) (then (call $set (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 4096) (i32.const 60000000))))
      (if (call $is (i32.const 85)) (then (call $set_uri (i32.const 4096) (i32.const 60000000))))
      (if (call $is (i32.const 77)) (then (call $set_method (i32.const 4096) (i32.const 60000000))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 7000))))
    (i64.const 1))
  (func (export "handle_response") (param i32 i32)))
