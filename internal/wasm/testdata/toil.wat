;; A guest that lets the host work. It does 7,000 times, which is less than the
;; checks of a slice, what the last letter of the request's path stands for.
(module
  (import "sluice:gateway/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "sluice:gateway/host@0.1.0" "count" (func $count (param i32 i32 i64)))
  (import "sluice:gateway/host@0.1.0" "state" (func $state (param i32)))
  (import "sluice:gateway/host@0.1.0" "set-state" (func $set (param i32 i32) (result i32)))
  (import "sluice:gateway/host@0.1.0" "add" (func $add (param i32 i32 i64 i64) (result i64)))
  (import "sluice:gateway/host@0.1.0" "get" (func $get (param i32 i32) (result i64)))

  (memory (export "memory") 1000)
  (global $next (mut i32) (i32.const 4096))
  (global $case (mut i32) (i32.const 0))
  (data (i32.const 1024) "\00")             ;; continue
  (data (i32.const 1084) "\02")             ;; modify, with a body of 40 MiB
  (data (i32.const 1116) "\01\00\00\00\00\00\00\00\00\00\80\02")
  (data (i32.const 1200) "\02")             ;; modify, with a header that is set to 2 MiB
  (data (i32.const 1208) "\00\05\00\00\01\00\00\00")
  (data (i32.const 1280) "\40\05\00\00\01\00\00\00\00\00\02\00\00\00\20\00")
  (data (i32.const 1344) "x")

  ;; What the host returns has its place at 262,144: it need not last.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (if (i32.gt_u (local.get 3) (i32.const 16384)) (then (return (i32.const 262144))))
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $is (param $c i32) (result i32) (i32.eq (global.get $case) (local.get $c)))

  ;; The parameters after the method are the path's address and length.
  (func (export "sluice:gateway/on-request@0.1.0#on-request") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
    (local $n i32)
    (global.set $case (i32.load8_u (i32.add (local.get 2) (i32.sub (local.get 3) (i32.const 1)))))
    ;; B: a body of 40 MiB; H: a header of 2 MiB
    (if (call $is (i32.const 66)) (then (return (i32.const 1084))))
    (if (call $is (i32.const 72)) (then (return (i32.const 1200))))
    (loop $again
      ;; s: 64 KiB of state; t: reads it
      (if (call $is (i32.const 115)) (then (drop (call $set (i32.const 131072) (i32.const 65536)))))
      (if (call $is (i32.const 116)) (then (call $state (i32.const 512))))
      ;; u: wants it at an address that is none for it
      (if (call $is (i32.const 117)) (then (call $state (i32.const 514))))
      ;; a: adds under a key of its own; g: asks for it; c: counts
      (i32.store (i32.const 520) (i32.add (i32.const 0x20202020) (i32.and (local.get $n) (i32.const 0x3f))))
      (if (call $is (i32.const 97)) (then (drop (call $add (i32.const 520) (i32.const 4) (i64.const 1) (i64.const 0)))))
      (if (call $is (i32.const 103)) (then (drop (call $get (i32.const 520) (i32.const 4)))))
      (if (call $is (i32.const 99)) (then (call $count (i32.const 520) (i32.const 4) (i64.const 1))))
      ;; d: a line at debug, of 60 MB that are no text; k, K: a key of 257 bytes, of 256
      (if (call $is (i32.const 100)) (then (i32.store8 (i32.const 131072) (i32.const 255)) (call $log (i32.const 0) (i32.const 131072) (i32.const 60000000))))
      (if (call $is (i32.const 107)) (then (drop (call $get (i32.const 131072) (i32.const 257)))))
      (if (call $is (i32.const 75)) (then (drop (call $get (i32.const 131072) (i32.const 256)))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 7000))))
    (i32.const 1024)))
