/* A PKCS#11 module before another one, for tests: it hands on every call, and what it does otherwise
 * is the word in the file that ODD_MODULE_MODE names, read anew at each call. Only what the tests
 * need of the standard's header is here (PKCS#11 2.40, CK_FUNCTION_LIST and what it points at). */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
struct list { unsigned char version[2]; void *call[68]; };
struct mechanism { ulong_t kind; void *parameter; ulong_t size; };
struct gcm { unsigned char *iv; ulong_t iv_size, iv_bits; unsigned char *aad; ulong_t aad_size, tag; };

enum { TOKEN_INFO = 6, MECHANISM_LIST = 7, LOGIN = 18, ENCRYPT_INIT = 29, ENCRYPT = 30,
       DECRYPT_INIT = 33, DECRYPT = 34 };
#define AES_GCM 0x1087UL
#define OK 0UL
#define FLAGS_AT 96

static struct list ours, *real;

static int is(const char *mode)
{
    char word[64] = "";
    FILE *file = fopen(getenv("ODD_MODULE_MODE"), "r");
    if (file) {
        if (!fgets(word, sizeof word, file))
            word[0] = 0;
        fclose(file);
    }
    return strcmp(word, mode) == 0;
}

static void misbehave(void)
{
    if (is("hang"))
        for (;;)
            pause();
    if (is("crash"))
        abort();
}

static ulong_t token_info(ulong_t slot, unsigned char *info)
{
    ulong_t result = ((ulong_t (*)(ulong_t, void *))real->call[TOKEN_INFO])(slot, info), flags;
    memcpy(&flags, info + FLAGS_AT, sizeof flags);
    if (is("final-try"))
        flags |= 0x20000UL;
    if (is("locked"))
        flags |= 0x40000UL;
    memcpy(info + FLAGS_AT, &flags, sizeof flags);
    return result;
}

static ulong_t mechanism_list(ulong_t slot, ulong_t *kinds, ulong_t *count)
{
    ulong_t result = ((ulong_t (*)(ulong_t, void *, void *))real->call[MECHANISM_LIST])(slot, kinds, count);
    if (result == OK && kinds && is("no-gcm"))
        for (ulong_t at = 0; at < *count; at++)
            if (kinds[at] == AES_GCM)
                kinds[at] = 0x1082UL; /* AES-CBC once more */
    return result;
}

static ulong_t login(ulong_t session, ulong_t user, void *pin, ulong_t size)
{
    int file = open(getenv("ODD_MODULE_LOGINS"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file >= 0 && write(file, "x", 1) == 1)
        close(file);
    if (is("hang-at-login"))
        for (;;)
            pause();
    return ((ulong_t (*)(ulong_t, ulong_t, void *, ulong_t))real->call[LOGIN])(session, user, pin, size);
}

static ulong_t begin(int call, ulong_t session, struct mechanism *how, ulong_t key)
{
    struct gcm *gcm = how->parameter, other;
    struct mechanism handed = *how;
    if (call == ENCRYPT_INIT && is("own-iv")) {
        /* As a token does that lets nobody choose an IV. */
        int file = open("/dev/urandom", O_RDONLY);
        if (file < 0 || read(file, gcm->iv, gcm->iv_size) != (ssize_t)gcm->iv_size)
            abort();
        close(file);
    }
    other = *gcm;
    if (is("unbound"))
        other.aad_size = 0;
    handed.parameter = &other;
    return ((ulong_t (*)(ulong_t, void *, ulong_t))real->call[call])(session, &handed, key);
}

static ulong_t encrypt_init(ulong_t session, struct mechanism *how, ulong_t key)
{
    return begin(ENCRYPT_INIT, session, how, key);
}

static ulong_t decrypt_init(ulong_t session, struct mechanism *how, ulong_t key)
{
    return begin(DECRYPT_INIT, session, how, key);
}

static ulong_t decrypt(ulong_t session, void *in, ulong_t in_size, void *out, ulong_t *out_size)
{
    misbehave();
    /* An error ends the operation, a question for the size (no room for the answer) does not. */
    ulong_t said = ((ulong_t (*)(ulong_t, void *, ulong_t, void *, ulong_t *))real->call[DECRYPT])(
        session, in, in_size, out, out_size);
    return out && is("device-error") ? 0x30UL : said;
}

ulong_t C_GetFunctionList(struct list **list)
{
    void *library = dlopen(getenv("ODD_MODULE_REAL"), RTLD_NOW | RTLD_LOCAL);
    ulong_t (*get)(struct list **) = (ulong_t (*)(struct list **))(library ? dlsym(library, "C_GetFunctionList") : NULL);
    if (!get || get(&real) != OK)
        return 5UL;
    ours = *real;
    ours.call[TOKEN_INFO] = token_info;
    ours.call[MECHANISM_LIST] = mechanism_list;
    ours.call[LOGIN] = login;
    ours.call[ENCRYPT_INIT] = encrypt_init;
    ours.call[DECRYPT_INIT] = decrypt_init;
    ours.call[DECRYPT] = decrypt;
    *list = &ours;
    return OK;
}
