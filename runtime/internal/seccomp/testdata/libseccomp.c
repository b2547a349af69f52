/* Prints what libseccomp makes of a profile, for the tests to compare with.
 *
 *   libseccomp compile   reads a profile from stdin and writes its BPF to stdout. Lines:
 *                          default ACTION | arch NAME | drop NAME | rule ACTION CALL N (INDEX OP A B){N}
 *                        ACTION and the numbers are C integers; OP is enum scmp_compare's value.
 *   libseccomp names     prints "ARCH NUMBER NAME" of all calls it knows.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int names(void) {
	static const char *arches[] = {"x86_64", "x86", "x32", "aarch64", "arm"};
	for (size_t i = 0; i < sizeof arches / sizeof *arches; i++) {
		uint32_t arch = seccomp_arch_resolve_name(arches[i]);
		int base = strcmp(arches[i], "x32") == 0 ? 0x40000000 : 0;
		for (int nr = base; nr < base + 1000; nr++) {
			char *name = seccomp_syscall_resolve_num_arch(arch, nr);
			if (name)
				printf("%s %d %s\n", arches[i], nr, name);
			free(name);
		}
	}
	return 0;
}

static int die(const char *what, int rc) {
	fprintf(stderr, "libseccomp: %s: %s\n", what, strerror(-rc));
	return 1;
}

int main(int argc, char **argv) {
	char word[128], name[128];
	unsigned long action;
	scmp_filter_ctx ctx = NULL;
	int rc;
	if (argc != 2)
		return 2;
	if (strcmp(argv[1], "names") == 0)
		return names();
	while (scanf("%127s", word) == 1) {
		if (strcmp(word, "default") == 0 && scanf("%li", &action) == 1) {
			if (!(ctx = seccomp_init((uint32_t)action)))
				return die("seccomp_init", -EINVAL);
		} else if (strcmp(word, "arch") == 0 && scanf("%127s", name) == 1) {
			rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(name));
			if (rc && rc != -EEXIST)
				return die(name, rc);
		} else if (strcmp(word, "drop") == 0 && scanf("%127s", name) == 1) {
			if ((rc = seccomp_arch_remove(ctx, seccomp_arch_resolve_name(name))))
				return die(name, rc);
		} else if (strcmp(word, "rule") == 0) {
			struct scmp_arg_cmp args[6];
			unsigned n, op;
			if (scanf("%li %127s %u", &action, name, &n) != 3 || n > 6)
				return 2;
			for (unsigned i = 0; i < n; i++) {
				unsigned long a, b;
				if (scanf("%u %u %lu %lu", &args[i].arg, &op, &a, &b) != 4)
					return 2;
				args[i].op = op;
				args[i].datum_a = a;
				args[i].datum_b = b;
			}
			int nr = seccomp_syscall_resolve_name(name);
			if (nr == __NR_SCMP_ERROR)
				continue; /* not known to this version */
			rc = seccomp_rule_add_array(ctx, (uint32_t)action, nr, n, args);
			if (rc && rc != -EDOM)
				return die(name, rc);
		} else {
			return 2;
		}
	}
	rc = seccomp_export_bpf(ctx, 1);
	return rc ? die("export", rc) : 0;
}
